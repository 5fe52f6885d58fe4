"""The fused bound of the cross-entropy: above every point's, and what the formulas say."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.bounds import backward, interval, propagate, refine
from taut.bounds.fused import _chord, elided, fused_cross_entropy
from taut.errors import ConfigError
from taut.graph import Network, trace
from taut.operators import LINES
from taut.property import margin_rows
from taut.region import Box, LpBall
from taut.training.losses import robust_cross_entropy
from tests.counts import cases
from tests.soundness.harness import (
    KINDS,
    SEEDS,
    around_operator,
    assert_gradients,
    case,
    evaluate,
    every_case,
    generator,
    normal,
    points_of,
    random_box,
    random_module,
    sphere,
    traced,
    uniform,
)


def worst(net: Network, box: Box, y: Tensor, seed: int) -> Tensor:
    """Return the largest cross-entropy among points of each box."""
    logits = evaluate(net, points_of(box, generator(seed)))
    each = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none")
    return each.view(len(logits), -1).amax(0)


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(6), deadline=None)
@given(
    seed=SEEDS, scale=st.sampled_from([0.01, 0.3, 1.0]), beta=st.sampled_from([1.0, 0.5, 1e-3, 0.0])
)
def test_no_point_has_a_larger_loss(
    kind: str, lines: str, seed: int, scale: float, beta: float
) -> None:
    net = traced(kind, seed).detached()
    box = random_box(generator(seed), 3, *net.input_shape, scale=scale)
    y = torch.arange(3) % net.classes  # right and wrong labels
    bound = fused_cross_entropy(net, propagate(net, box), y, lines, beta)
    assert bound.shape == (3,)
    true = worst(net, box, y, seed)
    assert bool((bound >= true - 1e-10 * (1 + true)).all())


@pytest.mark.parametrize(("name", "number"), every_case())
@settings(max_examples=cases(2), deadline=None)
@given(seed=SEEDS)
def test_every_operator(name: str, number: int, seed: int) -> None:
    g = generator(seed)
    net = around_operator(case(name, number, seed), g)
    box = random_box(g, 3, 5, scale=0.5)
    y = torch.arange(3) % net.classes
    true = worst(net, box, y, seed)
    bound = fused_cross_entropy(net, propagate(net, box), y)
    assert bool((bound >= true - 1e-10 * (1 + true.abs())).all())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.01, 0.3, 1.0]))
def test_without_the_backward_pass_it_is_the_elided_interval_loss(
    kind: str, seed: int, scale: float
) -> None:
    net = traced(kind, seed).detached()
    inter = propagate(net, random_box(generator(seed), 3, *net.input_shape, scale=scale))
    y = torch.arange(3) % net.classes
    expected = robust_cross_entropy(interval.margins(net, inter, y), y)
    bound = fused_cross_entropy(net, inter, y, beta=0.0)
    torch.testing.assert_close(bound, expected, rtol=1e-12, atol=1e-12)
    nearly = fused_cross_entropy(net, inter, y, beta=1e-300)  # the mixed form, its weight nil
    torch.testing.assert_close(nearly, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_point_has_its_own_loss(kind: str, beta: float) -> None:
    module, shape = random_module(kind, 11)
    x = uniform(generator(11), 4, *shape)
    net = trace(module, shape).instance().detached()
    y = torch.arange(4) % net.classes
    bound = fused_cross_entropy(net, propagate(net, Box.around(x, 0.0)), y, beta=beta)
    exact = F.cross_entropy(module(x), y, reduction="none").detach()
    torch.testing.assert_close(bound, exact, rtol=1e-9, atol=1e-9)


def chords(low: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return slopes and intercepts of the chords of exp, as the definition has them."""
    slope = (up.exp() - low.exp()) / (up - low)
    return slope, up.exp() - slope * up


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_a_linear_net_reaches_the_worst_corner_of_the_chords(beta: float) -> None:
    """The bound is the largest sum of chords over the corners of the box."""
    module, shape = random_module("linear", 3)
    assert isinstance(module, nn.Linear)
    net = trace(module, shape).instance().detached()
    box = random_box(generator(3), 3, *shape, scale=0.3)
    y = torch.arange(3) % net.classes
    found = fused_cross_entropy(net, propagate(net, box), y, beta=beta)
    for image, label in enumerate(y.tolist()):
        corners = torch.stack(
            [
                torch.where(torch.tensor(bits), box.upper[image], box.lower[image])
                for bits in itertools.product([False, True], repeat=6)
            ]
        )
        logits = module(corners).detach()
        d = logits - logits[:, label : label + 1]
        wrong = [j for j in range(4) if j != label]
        low, up = d.amin(0)[wrong], d.amax(0)[wrong]  # exact, as intervals of rows are here
        slope, shift = chords(low, up)
        crown = float((d[:, wrong] * slope + shift).sum(1).max()) + 1
        ibp = float(up.exp().sum()) + 1
        expected = math.log(beta * crown + (1 - beta) * ibp)
        assert math.isclose(float(found[image]), expected, rel_tol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "conv", "residual"])
@pytest.mark.parametrize("lines", ["adaptive", "tight", "same-slope"])
def test_the_backward_part_is_a_bound_of_the_chords_row(kind: str, lines: str) -> None:
    """By the definition: chords per class, one row, bounded from above by substitution."""
    net = traced(kind, 6).detached()
    inter = propagate(net, random_box(generator(6), 3, *net.input_shape, scale=0.1))
    y = torch.arange(3) % net.classes
    rows = margin_rows(y, net.classes, inter.like)
    out = net.output.index
    up = -backward.lower(net, out, rows, inter, lines=None)
    low = backward.lower(net, out, -rows, inter, lines=None)
    slope, shift = chords(low, up)
    row = -(slope.unsqueeze(2) * rows).sum(1, keepdim=True)
    upper = -backward.lower(net, out, -row, inter, lines=lines).squeeze(1)
    expected = (upper + shift.sum(1) + 1).log()
    found = fused_cross_entropy(net, inter, y, lines)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_neither_part_is_always_the_smaller() -> None:
    smaller = [0, 0]
    for seed in range(20):
        net = traced("deep", seed).detached()
        for scale in (0.02, 0.8):
            inter = propagate(net, random_box(generator(seed), 3, *net.input_shape, scale=scale))
            y = net(inter.region.center).argmax(1)
            crown, ibp = (fused_cross_entropy(net, inter, y, beta=beta) for beta in (1.0, 0.0))
            smaller[0] += int((crown < ibp - 1e-6).any())
            smaller[1] += int((crown > ibp + 1e-6).any())
    assert min(smaller) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_of_the_rows_are_the_elided_ones(kind: str) -> None:
    net = traced(kind, 12).detached()
    inter = propagate(net, random_box(generator(12), 3, *net.input_shape, scale=0.3))
    rows = normal(generator(13), 3, 5, net.classes)
    found = elided(net, inter, rows)
    out = net.output.index
    for side, sign in ((found.lower, 1.0), (-found.upper, -1.0)):
        expected = backward.lower(net, out, sign * rows, inter, lines=None)
        torch.testing.assert_close(side, expected, rtol=1e-12, atol=1e-12)


def test_better_bounds_before_and_other_regions_do() -> None:
    net = traced("conv", 4).detached()
    x = uniform(generator(4), 3, *net.input_shape)
    y = torch.arange(3) % net.classes
    ball = LpBall.around(x, 0.3, 2)
    points = sphere(x, 0.3, generator(5), 300)
    points = points.clamp(0, 1)  # towards the midpoint, so still in the ball
    logits = net(points.flatten(0, 1))
    true = F.cross_entropy(logits, y.repeat(300), reduction="none").view(300, 3).amax(0)
    inter = propagate(net, ball)
    for known in (inter, refine(inter, ("tight",))):
        assert bool((fused_cross_entropy(net, known, y) >= true - 1e-9).all())
    whole = fused_cross_entropy(net, propagate(net, ball.box), y, "tight")
    assert bool((fused_cross_entropy(net, inter, y, "tight") <= whole + 1e-9).all())


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["dense", "deep", "conv", "norm", "residual"])
def test_gradients_equal_finite_differences(kind: str, scale: float, beta: float) -> None:
    module, shape = random_module(kind, 4)
    box = random_box(generator(4), 2, *shape, scale=scale)
    graph = trace(module, shape)
    y = torch.arange(2)

    def loss() -> Tensor:
        net = graph.instance()
        return fused_cross_entropy(net, propagate(net, box), y, beta=beta).sum()

    assert_gradients(loss, module)


def tower(gain: float, bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (12, 40, 40, 40):
        layers += [nn.Linear(width, 40), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(40, 10))
    for weight in module.parameters():
        weight.data.mul_(gain)
    module[-1].bias.data.add_(bias * torch.arange(10.0))
    return module


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1, 0.5])
@pytest.mark.parametrize("bias", [0.0, 300.0, -1e4])
@pytest.mark.parametrize("gain", [1e-4, 1.0, 10.0, 1000.0])
def test_extreme_logits_in_float32_are_finite_and_sound(
    gain: float, bias: float, eps: float
) -> None:
    """Margins from 0 to -1e15; points are evaluated in float64."""
    module = tower(gain, bias)
    x = torch.rand(20, 12, generator=generator(1))
    y = torch.arange(20) % 10
    net = trace(module, (12,)).instance()
    box = Box.around(x, eps)
    inter = propagate(net, box)
    fine = trace(tower(gain, bias).double(), (12,)).instance().detached()
    true = worst(fine, box.to(dtype=torch.float64), y, 2)
    size = evaluate(fine, points_of(box.to(dtype=torch.float64), generator(3), 20)).abs().amax()
    for beta in (1.0, 0.5, 0.0):
        bound = fused_cross_entropy(net, inter, y, beta=beta)
        slopes = torch.autograd.grad(bound.sum(), list(module.parameters()), retain_graph=True)
        assert bool(bound.isfinite().all())
        assert all(bool(slope.isfinite().all()) for slope in slopes)
        assert bool((bound >= 0).all())
        assert bool((bound >= true - 1e-5 * (1 + size)).all())
    logits = inter.at(net.output.index)
    widest = (logits.upper - logits.lower).detach().amax()
    assert float(widest) > 1e12 or gain < 1000 or eps < 0.1  # as extreme as it says


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_chord_has_all_its_digits_and_is_never_too_steep(dtype: torch.dtype) -> None:
    """(1 - e^-w) / w and its derivative, compared with sixty digits."""
    width = torch.cat([torch.zeros(1), torch.logspace(-12, 5, 1000), torch.linspace(0, 1, 200)])
    w = width.to(dtype).requires_grad_()
    found = _chord(w)
    (derivative,) = torch.autograd.grad(found.sum(), w)
    eps = torch.finfo(dtype).eps
    for value, slope, at in zip(found.tolist(), derivative.tolist(), w.tolist(), strict=True):
        exact, exact_slope = decimal_chord(at)
        assert -10 * eps * float(exact) <= float(Decimal(value) - exact) <= 0
        assert abs(float(Decimal(slope) - exact_slope)) <= 100 * eps * abs(float(exact_slope))


def decimal_chord(at: float) -> tuple[Decimal, Decimal]:
    """Return the value and the derivative of (1 - e^-w) / w."""
    w = Decimal(at)
    if w == 0:
        return Decimal(1), Decimal("-0.5")
    with localcontext() as context:
        context.prec = 60
        falling = (-w).exp()
        return (1 - falling) / w, (falling * (1 + w) - 1) / (w * w)


@pytest.mark.parametrize("beta", [-0.1, 1.5, math.nan])
def test_a_weight_out_of_range_is_refused(beta: float) -> None:
    net = traced("dense", 1)
    inter = propagate(net, random_box(generator(1), 2, *net.input_shape))
    with pytest.raises(ConfigError, match=r"beta must lie in \[0, 1\]"):
        fused_cross_entropy(net, inter, torch.tensor([0, 1]), beta=beta)
