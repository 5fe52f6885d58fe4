"""Lines of every activation against its formula on dense grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from activation_table import KINDS, SUBJECTS, Subject, grid, hard_bounds
from torch import Tensor

from taut.operators import LINES, Bounds, Lines, ReLU
from tests.soundness.harness import generator

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def double(tensor: Tensor | None, like: Tensor) -> np.ndarray:
    found = torch.zeros_like(like) if tensor is None else tensor
    return found.detach().double().numpy()


def gaps(subject: Subject, bounds: Bounds, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much the lines miss the function, and the unit in the last place there."""
    z = grid(bounds)
    value = subject.formula(z)
    eps = torch.finfo(bounds.lower.dtype).eps
    found = []
    for slope, shift, sign in (
        (lines.lower_slope, lines.lower_intercept, 1.0),
        (lines.upper_slope, lines.upper_intercept, -1.0),
    ):
        product = double(slope, slope) * z
        gap = sign * (value - product - double(shift, slope))
        # Double precision is no exact reference for lines that have double precision.
        ulps = subject.ulps if eps > 1e-10 else 4
        size = np.abs(value) + np.abs(product)
        size = np.maximum(size, size.max(0)) if subject.coarse else size
        found.append((gap, eps * ulps * size))
    return np.stack([g for g, _ in found]), np.stack([e for _, e in found])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_lines_enclose_at_every_magnitude(name: str, dtype: str) -> None:
    """In single precision the smooth ones enclose the exact function, without any tolerance."""
    subject = SUBJECTS[name]
    bounds = hard_bounds(subject, generator(1), 40, DTYPES[dtype])
    for kind in KINDS:
        lines = subject.operator.lines(bounds, kind)
        assert lines.lower_slope.dtype == DTYPES[dtype]
        assert lines.lower_slope.shape == lines.upper_slope.shape == bounds.lower.shape
        gap, allowed = gaps(subject, bounds, lines)
        assert np.isfinite(gap).all()
        if name.startswith(("gelu", "silu", "hardswish")):  # z times a rounded share
            allowed = allowed + 4e-16 * np.abs(grid(bounds))
        assert (gap >= -allowed).all(), (kind, float((gap + allowed).min()))


@pytest.mark.parametrize("name", SUBJECTS)
def test_lines_touch_the_function(name: str) -> None:
    """No line leaves a gap everywhere: for its slope it is the closest one."""
    subject = SUBJECTS[name]
    low = torch.linspace(0.1, 4, 30, dtype=torch.float64) - (0 if subject.positive else 3.3)
    bounds = Bounds(low, low + torch.linspace(3, 0.2, 30, dtype=torch.float64))
    for kind in KINDS:
        gap, _ = gaps(subject, bounds, subject.operator.lines(bounds, kind))
        assert gap.min(1).max() <= 3e-6, kind


@pytest.mark.parametrize("name", SUBJECTS)
def test_mixes_of_zero_and_one_enclose(name: str) -> None:
    """Every element may mix its two lower and its two upper lines as it likes."""
    subject, g = SUBJECTS[name], generator(2)
    bounds = hard_bounds(subject, g, 40, torch.float64)
    first, second = (subject.operator.lines(bounds, kind) for kind in ("zero", "one"))
    for _ in range(3):
        t, s = torch.rand(2, 40, generator=g, dtype=torch.float64)
        zeros = torch.zeros(40, dtype=torch.float64)

        def mix(share: Tensor, a: Tensor | None, b: Tensor | None, none: Tensor = zeros) -> Tensor:
            return share * (none if a is None else a) + (1 - share) * (none if b is None else b)

        mixed = Lines(
            mix(t, first.lower_slope, second.lower_slope),
            mix(t, first.lower_intercept, second.lower_intercept),
            mix(s, first.upper_slope, second.upper_slope),
            mix(s, first.upper_intercept, second.upper_intercept),
        )
        gap, allowed = gaps(subject, bounds, mixed)
        shifts = (mixed.lower_intercept, mixed.upper_intercept)
        allowed += 1e-15 * np.abs(grid(bounds)) + np.stack(
            [1e-15 * np.abs(double(shift, zeros))[None] for shift in shifts]
        )
        assert (gap >= -allowed).all()


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "softplus steep"])
def test_tight_lines_only_get_better_on_a_smaller_interval(name: str) -> None:
    """Which, with the domination of the constant lines, orders IBP, CROWN-IBP and CROWN.

    A function with a step, a softplus of low threshold, has no such lines.
    """
    subject, g = SUBJECTS[name], generator(3)
    whole = hard_bounds(subject, g, 4000, torch.float64)
    ends = torch.rand(2, 4000, generator=g, dtype=torch.float64)
    keep = torch.rand(2, 4000, generator=g) < 0.3
    ends = torch.where(keep, torch.tensor([[0.0], [1.0]], dtype=torch.float64), ends).sort(0).values
    part = Bounds(*(torch.lerp(whole.lower, whole.upper, end) for end in ends))
    wide, narrow = (subject.operator.lines(b, "tight") for b in (whole, part))
    for z in (part.lower, part.upper):
        zero = torch.zeros_like(z)

        def at(slope: Tensor, shift: Tensor | None, z: Tensor = z, zero: Tensor = zero) -> Tensor:
            return slope * z + (zero if shift is None else shift)

        scale = 1e-13 * (
            subject.operator.forward(whole.lower).abs()
            + subject.operator.forward(whole.upper).abs()
            + (wide.lower_slope * z).abs()
            + (wide.upper_slope * z).abs()
            + (z.abs() if name.startswith(("gelu", "silu")) else 0)
            + 0.01  # 1e-15 in all: next to zero a slope's own rounding is relative to one
        )
        lower = at(narrow.lower_slope, narrow.lower_intercept)
        upper = at(narrow.upper_slope, narrow.upper_intercept)
        assert bool((lower >= at(wide.lower_slope, wide.lower_intercept) - scale).all())
        assert bool((upper <= at(wide.upper_slope, wide.upper_intercept) + scale).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_point_has_its_own_value(name: str, dtype: str) -> None:
    """Where lower equals upper every line gives the value, and slopes are finite."""
    subject = SUBJECTS[name]
    at = hard_bounds(subject, generator(4), 200, DTYPES[dtype]).lower
    eps = torch.finfo(at.dtype).eps
    for kind in LINES:
        lines = subject.operator.lines(Bounds(at, at), kind)
        value = subject.operator.forward(at)
        for slope, shift in (
            (lines.lower_slope, lines.lower_intercept),
            (lines.upper_slope, lines.upper_intercept),
        ):
            assert bool(torch.isfinite(slope).all())
            product = slope * at
            found = product if shift is None else product + shift
            assert bool(
                ((found - value).abs() <= 10 * eps * (value.abs() + product.abs() + at.abs())).all()
            )


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_image_is_the_exact_range(name: str) -> None:
    subject = SUBJECTS[name]
    bounds = hard_bounds(subject, generator(5), 60, torch.float64)
    value = subject.formula(grid(bounds))
    image = subject.operator.image(bounds)
    scale = 1e-15 * (np.abs(value).max(0) + np.abs(grid(bounds)).max(0))
    assert (image.lower.numpy() <= value.min(0) + scale).all()
    assert (image.upper.numpy() >= value.max(0) - scale).all()
    usual = Bounds(*(end.clamp(1e-3, 10) if subject.positive else end.clamp(-10, 10)
                     for end in (bounds.lower, bounds.upper)))  # fmt: skip
    value, image = subject.formula(grid(usual)), subject.operator.image(usual)
    step = 1e-3 if name.startswith("softplus") else 1e-4  # the jump is counted whole
    assert (image.lower.numpy() >= value.min(0) - step).all()
    assert (image.upper.numpy() <= value.max(0) + step).all()


def test_unknown_lines_are_an_error() -> None:
    bounds = Bounds(torch.tensor([1.0]), torch.tensor([2.0]))
    for subject in SUBJECTS.values():
        with pytest.raises(ValueError, match="unknown lines 'flat'"):
            subject.operator.lines(bounds, "flat")


def test_the_chord_of_relu_survives_every_magnitude_in_single_precision() -> None:
    """It misses (u, u) and (l, 0) by no more than units in the last place of u."""
    g = generator(6)
    size = 10 ** (60 * torch.rand(2, 100_000, generator=g, dtype=torch.float64) - 30)
    low, high = -size[0].float(), size[1].float()
    for kind in KINDS:
        lines = ReLU().lines(Bounds(low, high), kind)
        assert lines.upper_intercept is not None
        slope, shift = lines.upper_slope.double(), lines.upper_intercept.double()
        least = -1.5 * torch.finfo(torch.float32).eps * high.double()
        assert bool((slope * high + shift - high >= least).all())
        assert bool((slope * low + shift >= least).all())
        assert bool((lines.upper_slope <= 1).all())
        assert bool((lines.upper_slope >= 0).all())
