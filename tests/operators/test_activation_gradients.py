"""Lines are differentiable in the bounds: training needs that."""

from __future__ import annotations

import math

import pytest
import torch
from activation_table import KINDS, SUBJECTS, hard_bounds, tensor
from torch import Tensor

from taut.operators import LINES, Activation, Bounds, ReLU
from taut.operators.gated import GELU, SiLU
from taut.operators.leaky import LeakyReLU
from taut.operators.ramp import ParamRamp, Ramp, ramp


def each(operator: Activation, low: Tensor, high: Tensor, kind: str, weights: Tensor) -> Tensor:
    """Return a random combination of the four tensors of the lines, element by element."""
    lines = operator.lines(Bounds(low, high), kind)
    found = weights[0] * lines.lower_slope + weights[1] * lines.upper_slope
    for weight, shift in zip(
        weights[2:], (lines.lower_intercept, lines.upper_intercept), strict=True
    ):
        found = found if shift is None else found + weight * shift
    return found


@pytest.mark.parametrize("name", SUBJECTS)
def test_gradients_equal_finite_differences(name: str) -> None:
    subject = SUBJECTS[name]
    g = torch.Generator().manual_seed(7)
    low = 1.5 * torch.randn(200, generator=g, dtype=torch.float64)
    low = low.abs() + 0.2 if subject.positive else low
    high = low + 0.1 + 2 * torch.rand(200, generator=g, dtype=torch.float64)
    weights = torch.randn(4, 200, generator=g, dtype=torch.float64)
    way = torch.randn(2, 200, generator=g, dtype=torch.float64)
    step = 1e-6
    for kind in KINDS:
        ends = [end.clone().requires_grad_() for end in (low, high)]
        value = each(subject.operator, ends[0], ends[1], kind, weights)
        slopes = torch.autograd.grad(value.sum(), ends)
        found = slopes[0] * way[0] + slopes[1] * way[1]
        more, less = (
            each(subject.operator, low + s * way[0], high + s * way[1], kind, weights)
            for s in (step, -step)
        )
        torch.testing.assert_close(
            (more - less) / (2 * step), found, rtol=1e-4, atol=1e-5, msg=lambda m, k=kind: k + m
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SUBJECTS)
def test_gradients_are_finite_on_hard_intervals(name: str, dtype: torch.dtype) -> None:
    subject = SUBJECTS[name]
    # A chord over width w has a gradient of 1 / w; where 1 / w^2 overflows nothing is asked.
    bounds = hard_bounds(subject, torch.Generator().manual_seed(8), 400, dtype)
    if subject.positive:
        fine = (bounds.lower > 1e-4) & (bounds.upper < 1e6)
        bounds = Bounds(bounds.lower[fine], bounds.upper[fine])
    for kind in LINES:
        ends = [end.clone().requires_grad_() for end in (bounds.lower, bounds.upper)]
        lines = subject.operator.lines(Bounds(*ends), kind)
        image = subject.operator.image(Bounds(*ends))
        parts = (lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept)
        value = image.lower.sum() + image.upper.sum()
        value = value + sum((part.sum() for part in parts if part is not None), value * 0)
        for slope in torch.autograd.grad(value, ends):
            assert not bool(slope.isnan().any()), kind


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_parameters(kind: str) -> None:
    """Of the lines, by r and eta of a ramp and by the slope of a PReLU."""
    g = torch.Generator().manual_seed(9)
    low = -2 * torch.rand(300, generator=g, dtype=torch.float64)
    high = low + 4 * torch.rand(300, generator=g, dtype=torch.float64)
    weights = torch.randn(4, 300, generator=g, dtype=torch.float64)
    step = 1e-6

    def check(make: object, parameter: Tensor) -> None:
        def value() -> Tensor:
            return each(make(), low, high, kind, weights).sum()  # type: ignore[operator]

        (slope,) = torch.autograd.grad(value(), parameter)
        way = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        with torch.no_grad():
            parameter += step * way
            more = value()
            parameter -= 2 * step * way
            less = value()
            parameter += step * way
        change = float((more - less) / (2 * step))
        assert math.isclose(change, float((slope * way).sum()), rel_tol=1e-5, abs_tol=1e-5)

    r = (0.2 + torch.rand(300, generator=g, dtype=torch.float64)).requires_grad_()
    eta = tensor(0.3).requires_grad_()
    check(lambda: Ramp(eta, torch.zeros_like(r), r), r)
    check(lambda: Ramp(eta, torch.zeros_like(r), r), eta)
    for first in (0.2, -0.4, 1.7):
        slope = tensor(first).requires_grad_()
        check(lambda slope=slope: LeakyReLU(slope), slope)


def test_the_gradients_of_a_ramp_are_those_published() -> None:
    """1 or eta by z; (1 - eta) where z > r by r."""
    z = torch.tensor([-2.0, 0.3, 0.9, 4.0], dtype=torch.float64, requires_grad=True)
    r = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    eta = torch.tensor(0.25, dtype=torch.float64)
    by_z, by_r = torch.autograd.grad(ramp(z, r, eta).sum(), (z, r))
    torch.testing.assert_close(by_z, torch.tensor([0.25, 1.0, 0.25, 0.25], dtype=torch.float64))
    torch.testing.assert_close(by_r, torch.tensor([0.0, 0.0, 0.75, 0.75], dtype=torch.float64))
    module = ParamRamp((4,), eta=0.25, r=0.5).double()
    (by_module,) = torch.autograd.grad(module(z).sum(), module.r)
    torch.testing.assert_close(by_module, by_r)


def test_gradients_of_the_values_stay_finite_far_out() -> None:
    far = torch.tensor([-1e30, -1e20, -50.0, 0.0, 50.0, 1e20, 1e30], requires_grad=True)
    for subject in SUBJECTS.values():
        if subject.positive or subject.largest < 1e3:
            continue
        (slope,) = torch.autograd.grad(subject.operator.forward(far).sum(), far)
        assert bool(torch.isfinite(slope).all()), subject.operator.name


def test_a_relu_passes_its_gradient_through_the_chord() -> None:
    """d/dl and d/du of u / (u - l) and -l u / (u - l)."""
    low = torch.tensor([-1.5], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    lines = ReLU().lines(Bounds(low, high), "tight")
    assert lines.upper_intercept is not None
    by_slope = torch.autograd.grad(lines.upper_slope, (low, high), retain_graph=True)
    by_shift = torch.autograd.grad(lines.upper_intercept, (low, high))
    assert [float(t) for t in by_slope] == pytest.approx([0.5 / 4, 1.5 / 4])
    assert [float(t) for t in by_shift] == pytest.approx([-(0.5**2) / 4, 1.5**2 / 4])


@pytest.mark.parametrize("operator", [GELU(), SiLU()], ids=lambda o: o.name)
def test_the_constants_of_gated_functions(operator: GELU | SiLU) -> None:
    """The derivative vanishes at the minimum, the second one at the bend."""
    at = torch.tensor([operator.least_at, operator.bend, -operator.bend], dtype=torch.float64)
    assert abs(float(operator.derivative(at)[0])) < 1e-15
    assert float(operator.second(at)[1:].abs().amax()) < 1e-15
    z = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(operator.forward(z).sum(), z, create_graph=True)
    torch.testing.assert_close(operator.derivative(z), first)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(operator.second(z), second)


def test_the_chord_has_no_gradient_where_nothing_bends_however_small_the_ends() -> None:
    ends = [(0.0, 1e-40), (1e-39, 3e-38), (-1e-38, -1e-39), (0.0, 0.0), (-1e-38, 0.0)]
    lower = torch.tensor([a for a, _ in ends], requires_grad=True)
    upper = torch.tensor([b for _, b in ends], requires_grad=True)
    lines = ReLU().lines(Bounds(lower, upper), "tight")
    shift = lines.upper_intercept
    assert shift is not None
    slopes = torch.autograd.grad((50 * lines.upper_slope + shift).sum(), (lower, upper))
    assert not any(slope.any() for slope in slopes)
