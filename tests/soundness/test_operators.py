"""Every registered operator: its maps of points, intervals and rows agree and are sound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taut.operators import LINES, OPERATORS, Activation, Affine, Bounds, Case, Interval
from tests.counts import cases
from tests.soundness.harness import SEEDS, TOLERANCE, case, every_case, generator, normal, uniform

AFFINE = [c for c in every_case() if isinstance(case(*c, 0).operator, Affine)]
BENT = [c for c in every_case() if isinstance(case(*c, 0).operator, Activation)]


def test_every_operator_is_fuzzed() -> None:
    assert {name for name, _ in every_case()} == set(OPERATORS)
    assert len(AFFINE) + len(BENT) == len(every_case())


@pytest.mark.parametrize(("name", "number"), every_case())
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_interval_holds_every_point(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed)
    centers = [normal(g, 3, *shape) for shape in found.shapes]
    if isinstance(found.operator, Activation) and found.operator.domain[0] > -math.inf:
        centers = [found.operator.domain[0] + 1.001 + c.abs() for c in centers]
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


def dense(operator: Affine, shapes: tuple[tuple[int, ...], ...]) -> tuple[list, Tensor]:
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
@settings(max_examples=cases(5), deadline=None)
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
    points = [normal(g, 2, *shape) for shape in found.shapes]
    through = sum(x.flatten(1) @ m.T for x, m in zip(points, matrices, strict=True))
    torch.testing.assert_close(operator.linear(*points).flatten(1), through, rtol=1e-11, atol=1e-11)
    share = operator.constant(rows)
    share = torch.zeros(2, dtype=torch.float64) if share is None else share
    torch.testing.assert_close(share, rows.flatten(1) @ constant, rtol=1e-11, atol=1e-11)


def passes_windows(found: Case) -> bool:
    """Whether rows go through as windows: on images, of one size where there are several."""
    images = all(len(shape) == 3 for shape in found.shapes)
    alike = len({shape[1:] for shape in found.shapes}) == 1
    return images and alike and found.operator.reach is not None  # type: ignore[attr-defined]


WINDOWED = [c for c in AFFINE if passes_windows(case(*c, 0))]


@pytest.mark.parametrize(("name", "number"), WINDOWED)
@settings(max_examples=cases(5), deadline=None)
@given(seed=SEEDS)
def test_a_window_is_pulled_back_to_the_window_it_reaches(
    name: str, number: int, seed: int
) -> None:
    """Rows that are zero outside a window give the same pulled either way."""
    found, g = case(name, number, seed), generator(seed + 2)
    operator = found.operator
    assert isinstance(operator, Affine)
    reach = operator.reach
    assert reach is not None
    example = [torch.zeros(2, *shape, dtype=torch.float64) for shape in found.shapes]
    out = operator.forward(*example)
    sizes = out.shape[2:]
    corner = [int(torch.randint(n, (1,), generator=g)) for n in sizes]
    extent = [min(2, n - c) for n, c in zip(sizes, corner, strict=True)]
    window = normal(g, 2, out.shape[1], *extent)
    rows = torch.zeros_like(out)
    (top, left), (height, width) = corner, extent
    rows[:, :, top : top + height, left : left + width] = window
    for part, whole, shape in zip(
        operator.pull(window, found.shapes),
        operator.transpose(rows, found.shapes),
        found.shapes,
        strict=True,
    ):
        starts = [corner[i] * reach.stride[i] - reach.padding[i] for i in range(2)]
        reached = [(extent[i] - 1) * reach.stride[i] + reach.extent[i] for i in range(2)]
        assert list(part.shape[2:]) == reached
        expected = torch.zeros(2, *shape, dtype=torch.float64)
        for y in range(reached[0]):
            for x in range(reached[1]):
                at = starts[0] + y, starts[1] + x
                if 0 <= at[0] < shape[1] and 0 <= at[1] < shape[2]:
                    expected[:, :, at[0], at[1]] = part[:, :, y, x]
        torch.testing.assert_close(whole, expected, rtol=1e-11, atol=1e-11)


def line(slope: Tensor, shift: Tensor | None, z: Tensor, axis: int | None) -> Tensor:
    """Evaluate a line, summed over the axis that the activation takes together."""
    value = slope * z if axis is None else (slope * z).sum(axis + 1)
    return value if shift is None else value + shift


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize(("name", "number"), BENT)
@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([1e-6, 0.1, 1.0, 30.0]))
def test_lines_enclose_the_activation(
    name: str, number: int, kind: str, seed: int, scale: float
) -> None:
    found, g = case(name, number, seed), generator(seed)
    operator = found.operator
    assert isinstance(operator, Activation)
    bounds = some_bounds(operator, found.shapes[0], g, scale)
    lines = operator.lines(bounds, kind)
    ends = operator.image(bounds)
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = shares.view(-1, *[1] * bounds.lower.dim()).expand(-1, *bounds.lower.shape)
    if operator.axis is not None:
        t = uniform(g, *t.shape)
        t[:30] = t[:30].round()
    z = torch.lerp(bounds.lower, bounds.upper, t)
    value = operator.forward(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    most = [tensor.abs().flatten(1).amax(1) for tensor in (z, value)]
    slack = (TOLERANCE * (1 + most[0] + most[1])).view(-1, *[1] * (value.dim() - 1))
    axis = None if operator.axis is None else operator.axis + 1
    low = line(lines.lower_slope, lines.lower_intercept, z, axis)
    up = line(lines.upper_slope, lines.upper_intercept, z, axis)
    assert bool((low <= value + slack).all())
    assert bool((up >= value - slack).all())
    assert bool((ends.lower <= value + slack).all())
    assert bool((ends.upper >= value - slack).all())


def some_bounds(
    operator: Activation, shape: tuple[int, ...], g: torch.Generator, scale: float = 1.0
) -> Bounds:
    """Return random bounds in the operator's domain, points as well as intervals."""
    center, radius = normal(g, 5, *shape) * scale, uniform(g, 5, *shape) * scale
    radius = radius * (uniform(g, *radius.shape) > 0.1)
    least = operator.domain[0]
    if least > -math.inf:  # keep the same widths, moved into the domain
        center = least + 1e-3 + center.abs() + radius
    return Bounds(center - radius, center + radius)


@pytest.mark.parametrize(("name", "number"), BENT)
@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS)
def test_tight_lines_dominate_constant_ones(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed)
    operator = found.operator
    assert isinstance(operator, Activation)
    bounds = some_bounds(operator, found.shapes[0], g)
    tight, ends = operator.lines(bounds, "tight"), operator.image(bounds)
    low_end = torch.where(tight.lower_slope > 0, bounds.lower, bounds.upper)
    high_end = torch.where(tight.upper_slope > 0, bounds.upper, bounds.lower)
    low = line(tight.lower_slope, tight.lower_intercept, low_end, operator.axis)
    up = line(tight.upper_slope, tight.upper_intercept, high_end, operator.axis)
    slack = TOLERANCE * (1 + ends.upper.abs() + ends.lower.abs())
    assert bool((low >= ends.lower - slack).all())
    assert bool((up <= ends.upper + slack).all())


@pytest.mark.parametrize(("name", "number"), BENT)
@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS)
def test_same_slope_lines_are_parallel(name: str, number: int, seed: int) -> None:
    found, g = case(name, number, seed), generator(seed)
    operator = found.operator
    assert isinstance(operator, Activation)
    lines = operator.lines(some_bounds(operator, found.shapes[0], g), "same-slope")
    assert torch.equal(lines.lower_slope, lines.upper_slope)


@pytest.mark.parametrize(("name", "number"), BENT)
def test_lines_are_exact_where_nothing_bends(name: str, number: int) -> None:
    found, g = case(name, number, 3), generator(3)
    operator = found.operator
    assert isinstance(operator, Activation)
    bounds = some_bounds(operator, found.shapes[0], g, 2.0)
    straight = ~operator.bends(bounds)
    assert bool(straight.any())
    if operator.axis is not None:  # exact where none of the elements taken together bends
        straight = straight.all(operator.axis + 1)
    for kind in set(LINES) - {"constant"}:
        lines = operator.lines(bounds, kind)
        for z in (bounds.lower, bounds.upper):
            value = operator.forward(z)
            low = line(lines.lower_slope, lines.lower_intercept, z, operator.axis)
            up = line(lines.upper_slope, lines.upper_intercept, z, operator.axis)
            torch.testing.assert_close(low[straight], value[straight])
            torch.testing.assert_close(up[straight], value[straight])
