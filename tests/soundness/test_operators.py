"""Every registered operator: its maps of points, intervals and rows agree and are sound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.operators import LINES, OPERATORS, Activation, Affine, Bounds, Interval
from tests.soundness.harness import TOLERANCE, case, every_case, generator, normal, uniform

SEEDS = st.integers(0, 10**6)
AFFINE = [c for c in every_case() if isinstance(case(*c, 0).operator, Affine)]
BENT = [c for c in every_case() if isinstance(case(*c, 0).operator, Activation)]


def test_every_operator_is_fuzzed() -> None:
    assert {name for name, _ in every_case()} == set(OPERATORS)
    assert len(AFFINE) + len(BENT) == len(every_case())


@pytest.mark.parametrize(("name", "number"), every_case())
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_interval_holds_every_point(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed)
    centers = [normal(g, 3, *shape) for shape in found.shapes]
    radii = [uniform(g, 3, *shape) * (uniform(g, 3, *shape) > 0.3) for shape in found.shapes]
    inputs = [Interval(c, r) for c, r in zip(centers, radii, strict=True)]
    out = found.operator.interval(*inputs).bounds
    for _ in range(50):
        t = [2 * uniform(g, *c.shape) - 1 for c in centers]
        if uniform(g, 1) < 0.5:
            t = [torch.sign(part) for part in t]
        points = [c + r * part for c, r, part in zip(centers, radii, t, strict=True)]
        value = found.operator.forward(*points)
        slack = TOLERANCE * (1 + value.abs())
        assert bool((out.lower <= value + slack).all())
        assert bool((out.upper >= value - slack).all())


def dense(operator: Affine, shapes: tuple[tuple[int, ...], ...]) -> tuple[list, torch.Tensor]:
    """Return the matrix of each input and the constant, from evaluations alone."""
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
    constant = operator.forward(*zeros).flatten()
    matrices = []
    for position, shape in enumerate(shapes):
        size = int(torch.Size(shape).numel())
        basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
        inputs = [
            basis if i == position else z.expand(size, *z.shape[1:]) for i, z in enumerate(zeros)
        ]
        matrices.append((operator.forward(*inputs).flatten(1) - constant).T)
    return matrices, constant


@pytest.mark.parametrize(("name", "number"), AFFINE)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_affine_maps_equal_the_dense_matrix(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed + 1)
    operator = found.operator
    assert isinstance(operator, Affine)
    matrices, constant = dense(operator, found.shapes)
    radii = [uniform(g, 2, *shape) for shape in found.shapes]
    spread = operator.magnitude(*radii).flatten(1)
    expected = sum(r.flatten(1) @ m.abs().T for m, r in zip(matrices, radii, strict=True))
    torch.testing.assert_close(spread, expected, rtol=1e-12, atol=1e-12)
    out = operator.forward(*(torch.zeros_like(r) for r in radii))
    rows = normal(g, *out.shape)
    pulled = operator.transpose(rows, found.shapes)
    assert len(pulled) == len(found.shapes)
    for part, matrix, shape in zip(pulled, matrices, found.shapes, strict=True):
        assert tuple(part.shape[1:]) == shape
        torch.testing.assert_close(
            part.flatten(1), rows.flatten(1) @ matrix, rtol=1e-11, atol=1e-11
        )
    share = operator.constant(rows)
    share = torch.zeros(2, dtype=torch.float64) if share is None else share
    torch.testing.assert_close(share, rows.flatten(1) @ constant, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize(("name", "number"), BENT)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([1e-6, 0.1, 1.0, 30.0]))
def test_lines_enclose_the_activation(
    name: str, number: int, kind: str, seed: int, scale: float
) -> None:
    found, g = case(name, number, seed), generator(seed)
    operator = found.operator
    assert isinstance(operator, Activation)
    center, radius = normal(g, 5, *found.shapes[0]) * scale, uniform(g, 5, *found.shapes[0]) * scale
    radius = radius * (uniform(g, *radius.shape) > 0.1)  # points as well as intervals
    bounds = Bounds(center - radius, center + radius)
    lines = operator.lines(bounds, kind)
    low_shift = 0.0 if lines.lower_intercept is None else lines.lower_intercept
    up_shift = 0.0 if lines.upper_intercept is None else lines.upper_intercept
    for t in torch.linspace(0, 1, 101, dtype=torch.float64):
        z = torch.lerp(bounds.lower, bounds.upper, t)
        value = operator.forward(z)
        slack = TOLERANCE * (1 + z.abs())
        assert bool((lines.lower_slope * z + low_shift <= value + slack).all())
        assert bool((lines.upper_slope * z + up_shift >= value - slack).all())


@pytest.mark.parametrize(("name", "number"), BENT)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_tight_lines_dominate_constant_ones(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed)
    operator = found.operator
    assert isinstance(operator, Activation)
    center, radius = normal(g, 5, *found.shapes[0]), uniform(g, 5, *found.shapes[0])
    bounds = Bounds(center - radius, center + radius)
    tight = operator.lines(bounds, "tight")
    low = 0.0 if tight.lower_intercept is None else tight.lower_intercept
    up = 0.0 if tight.upper_intercept is None else tight.upper_intercept
    for z in (bounds.lower, bounds.upper):  # lines: the ends decide
        assert bool((tight.lower_slope * z + low >= operator.forward(bounds.lower) - 1e-12).all())
        assert bool((tight.upper_slope * z + up <= operator.forward(bounds.upper) + 1e-12).all())


@pytest.mark.parametrize(("name", "number"), BENT)
def test_lines_are_exact_where_nothing_bends(name: str, number: int) -> None:
    found, g = case(name, number, 3), generator(3)
    operator = found.operator
    assert isinstance(operator, Activation)
    center, radius = 2 * normal(g, 9, *found.shapes[0]), uniform(g, 9, *found.shapes[0])
    bounds = Bounds(center - radius, center + radius)
    straight = ~operator.bends(bounds)
    assert bool(straight.any())
    for kind in ("tight", "adaptive"):
        lines = operator.lines(bounds, kind)
        for z in (bounds.lower, bounds.upper):
            value = operator.forward(z)
            for slope, shift in (
                (lines.lower_slope, lines.lower_intercept),
                (lines.upper_slope, lines.upper_intercept),
            ):
                line = slope * z + (0.0 if shift is None else shift)
                torch.testing.assert_close(line[straight], value[straight])
