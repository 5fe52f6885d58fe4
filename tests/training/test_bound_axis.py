"""Bounds of the training grid against their formulas, written out in plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from bound_formulas import at, ball, batch, chain, crown, hybrid, ibp, layers_of, lbp, losses
from torch import Tensor, nn

from taut.bounds import METHODS as BOUNDING
from taut.bounds import Backward, BoundMethod, Zonotope
from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.training import (
    BOUNDS,
    CROWN,
    IBP,
    LBP,
    METHODS,
    Bound,
    CrownIBP,
    CrownLBP,
    choose,
    robust_cross_entropy,
)
from taut.training import Zonotope as TrainedZonotope

EPS = 0.15
SIZES = (4, 7, 6, 3)


def deep() -> nn.Sequential:
    """A convolutional network with unstable neurons in every layer."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def by_hand(bound: Bound, model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The losses of a chain by the bound's own formula, at full weight."""
    layers = layers_of(model)
    low, high = ball(x, EPS)
    if isinstance(bound, IBP):
        return losses(ibp(layers, low, high, y, bound.relu_shrinkage))
    found = []
    for index, label in enumerate(y.tolist()):
        box = (low[index], high[index])
        if isinstance(bound, LBP):
            found.append(lbp(layers, box, label, bound.lines))
        elif isinstance(bound, CROWN):
            found.append(crown(layers, box, label, bound.lines, bound.intersect))
        else:
            assert isinstance(bound, TrainedZonotope)
            found.append(hybrid(layers, box, label, bound.intersect))
    return losses(found)


@pytest.mark.parametrize(
    "bound",
    [
        IBP(),
        IBP(relu_shrinkage=0.8),
        LBP(),
        LBP(lines="tight", intersect=False),
        LBP(lines="adaptive", intersect=False),
        CROWN(lines="same-slope"),
        CROWN(lines="same-slope", intersect=False),
        CROWN(lines="adaptive"),
        TrainedZonotope(),
        TrainedZonotope(intersect=False),
    ],
    ids=str,
)
def test_losses_and_gradients_equal_the_formula(bound: Bound) -> None:
    model, (x, y) = chain(*SIZES), batch()
    network = trace(model, (4,)).instance()
    found = bound.bounded(network, Box.around(x, EPS), y, at(EPS)).losses
    expected = by_hand(bound, model, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_networks_of_these_tests_bend() -> None:
    model, (x, _) = chain(*SIZES), batch()
    known = Backward("crown").intermediate(trace(model, (4,)).instance(), Box.around(x, EPS))
    unstable = [bounds.unstable.double().mean() for bounds in known.activations()]
    assert all(share > 0.1 for share in unstable)


@pytest.mark.parametrize(
    ("bound", "method"),
    [
        (LBP(lines="best"), BOUNDING["lbp"]),
        (LBP(), Backward("lbp", "tight", depth=1)),
        (CrownLBP(lines="best"), BOUNDING["crown-lbp"]),
        (CrownLBP(), Backward("lbp", "tight")),
        (CROWN(), BOUNDING["deeppoly"]),
        (CROWN(lines="best"), BOUNDING["crown"]),
        (TrainedZonotope(), BOUNDING["hybrid-zonotope"]),
        (TrainedZonotope(hybrid=False, intersect=False), Zonotope(intersect=False)),
        (CrownIBP(beta_end=1.0), Backward("ibp", "adaptive")),
    ],
    ids=str,
)
def test_losses_are_those_of_the_bounding_grids_margins(bound: Bound, method: BoundMethod) -> None:
    model = deep()
    x, y = torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.arange(3)
    network, box = trace(model, (1, 4, 4)).instance(), Box.around(x, 0.1)
    found = bound.bounded(network, box, y, at(0.1))
    margins = method.margins(network, box, y)
    torch.testing.assert_close(found.margins, margins, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.losses, robust_cross_entropy(margins, y))
    plain = IBP().bounded(network, box, y, at(0.1)).intermediate
    for a, b in zip(found.intermediate.activations(), plain.activations(), strict=True):
        assert torch.equal(a.lower, b.lower)
        assert torch.equal(a.upper, b.upper)
    assert found.sound


@pytest.mark.parametrize(
    "method",
    [
        Backward("lbp", "adaptive", depth=1),
        Backward("lbp", "tight"),
        Backward("crown", "same-slope"),
        Backward("crown", "same-slope", intersect=False),
        Backward("crown", "adaptive"),
        Backward("crown", "best"),
        Backward("crown", "tight", depth=2),
        Zonotope(),
        Zonotope(hybrid=True),
        Zonotope(hybrid=True, intersect=False),
    ],
    ids=str,
)
def test_gradients_of_every_bound_that_is_trained_with_are_complete(method: BoundMethod) -> None:
    """Directional derivatives; lines of the layers before have to carry gradients too."""
    model = deep()
    x, y = torch.rand(2, 1, 4, 4, dtype=torch.float64), torch.arange(2)
    graph, box = trace(model, (1, 4, 4)), Box.around(x, 0.1)
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(1)

    def value() -> Tensor:
        return robust_cross_entropy(method.margins(graph.instance(), box, y), y).sum()

    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(way, alpha=sign * 1e-6)
                ends.append(value())
                parameter.add_(way, alpha=-sign * 1e-6)
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-6, atol=1e-7)


def test_a_weight_mixes_margins_with_intervals() -> None:
    model, (x, y) = chain(*SIZES), batch()
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    low, high = ball(x, EPS)
    layers = layers_of(model)
    plain = ibp(layers, low, high, y)
    dear = [lbp(layers, (low[i], high[i]), int(label), "tight") for i, label in enumerate(y)]
    bound = LBP(beta_start=1.0, beta_end=0.2)
    for eps_max, beta in ((EPS, 0.2), (4 * EPS, 0.8)):
        found = bound.bounded(network, box, y, at(EPS, eps_max)).losses
        mixed = [(1 - beta) * a + beta * b for a, b in zip(plain, dear, strict=True)]
        torch.testing.assert_close(found, losses(mixed), rtol=1e-11, atol=1e-11)
    without = LBP(beta_start=0.0, beta_end=0.0).bounded(network, box, y, at(EPS)).losses
    assert torch.equal(without, IBP().bounded(network, box, y, at(EPS)).losses)
    assert LBP(beta_end=0.0).certifiers == ("ibp",)
    assert LBP().certifiers == ("ibp", "lbp")


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_fused_loss_is_the_bound_of_the_sum_of_exponentials(beta: float) -> None:
    model, (x, y) = chain(4, 7, 3), batch()
    layers = layers_of(model)
    low, high = ball(x, EPS)
    inner = after = None
    expected = []
    for i, label in enumerate(y.tolist()):
        weight, bias = layers[0]
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        inner = (
            positive @ low[i] + negative @ high[i] + bias,
            positive @ high[i] + negative @ low[i] + bias,
        )
        after = (inner[0].relu(), inner[1].relu())
        rows = layers[1][0] - layers[1][0][label]  # d_j = z_j - z_y, 0 for j = y
        shift = layers[1][1] - layers[1][1][label]
        plus, minus = rows.clamp(min=0), rows.clamp(max=0)
        d_low = plus @ after[0] + minus @ after[1] + shift
        d_up = plus @ after[1] + minus @ after[0] + shift
        width = torch.where(torch.arange(3) == label, 1.0, d_up - d_low)
        slope = torch.where(torch.arange(3) == label, 0.0, (d_up.exp() - d_low.exp()) / width)
        form = -(slope @ rows)  # to be bounded from below
        crossing = (inner[0] < 0) & (inner[1] > 0)
        chord = torch.where(crossing, inner[1] / (inner[1] - inner[0]), (inner[1] > 0).double())
        flat = torch.where(crossing, (inner[1] > -inner[0]).double(), (inner[1] > 0).double())
        pulled = form.clamp(min=0) * flat + form.clamp(max=0) * chord
        constant = (form.clamp(max=0) * torch.where(crossing, -chord * inner[0], 0.0)).sum()
        over_x = pulled @ weight
        least = constant + pulled @ bias
        least = least + over_x.clamp(min=0) @ low[i] + over_x.clamp(max=0) @ high[i]
        by_crown = (d_up.exp() - slope * d_up + slope * shift).sum() - least
        expected.append(torch.log(beta * by_crown + (1 - beta) * d_up.exp().sum()))
    bound = CrownIBP(beta_start=beta, beta_end=beta, fused=True)
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    found = bound.bounded(network, box, y, at(EPS))
    torch.testing.assert_close(found.losses, torch.stack(expected), rtol=1e-10, atol=1e-10)
    plain = IBP().bounded(network, box, y, at(EPS))
    assert torch.equal(found.margins, plain.margins)
    for a, b in zip(
        torch.autograd.grad(found.losses.sum(), list(model.parameters())),
        torch.autograd.grad(torch.stack(expected).sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_fusion_changes_no_certifier_and_fades_into_ibp() -> None:
    assert CrownIBP(fused=True).certifiers == CrownIBP().certifiers
    assert CrownIBP(fused=True, beta_end=1.0).certifiers == ("ibp", "crown-ibp")
    model, (x, y) = chain(*SIZES), batch()
    graph = trace(model, (4,))
    method = choose("crown-ibp-fused", {})
    found = method.loss(graph, x, y, at(EPS)).total  # beta is 0 at full eps
    expected = losses(ibp(layers_of(model), *ball(x, EPS), y)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_shrunk_intervals_are_no_bounds_and_say_so() -> None:
    model, (x, y) = chain(*SIZES), batch()
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    whole = IBP().bounded(network, box, y, at(EPS))
    shrunk = IBP(relu_shrinkage=0.8).bounded(network, box, y, at(EPS))
    assert whole.sound
    assert not shrunk.sound
    pairs = zip(whole.intermediate.activations(), shrunk.intermediate.activations(), strict=True)
    for a, b in list(pairs)[1:]:
        assert bool((b.upper - b.lower <= a.upper - a.lower + 1e-12).all())
        assert bool((b.upper - b.lower < a.upper - a.lower - 1e-3).any())
    tanh = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    smooth = trace(tanh, (4,)).instance()
    with pytest.raises(ConfigError, match="no ReLU"):
        IBP(relu_shrinkage=0.8).bounded(smooth, box, y, at(EPS))


def test_one_is_no_shrinkage_bit_for_bit() -> None:
    model, (x, y) = chain(*SIZES, dtype=torch.float32), batch()
    network, box = trace(model, (4,)).instance(), Box.around(x.float(), EPS)
    one, plain = (b.bounded(network, box, y, at(EPS)) for b in (IBP(relu_shrinkage=1.0), IBP()))
    assert torch.equal(one.losses, plain.losses)


@pytest.mark.parametrize("name", ["lbp", "crown-lbp", "coap", "diffai", "crown-ibp-fused"])
def test_named_methods_bound_the_loss_at_every_point_of_the_ball(name: str) -> None:
    model, (x, y) = chain(*SIZES), batch()
    method = choose(name, {"combination": {"name": "mix", "kappa_start": 0.0, "kappa_end": 0.0}})
    upper = method.loss(trace(model, (4,)), x, y, at(EPS)).total
    low, high = ball(x, EPS)
    for seed in range(50):
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
        point = low + noise.double().round() * (high - low)
        assert bool(nn.functional.cross_entropy(model(point), y) <= upper)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("lbp", LBP()),
        ("coap", CROWN(lines="same-slope")),
        ("diffai", TrainedZonotope()),
        ("ibp-shi", IBP()),
    ],
)
def test_named_methods_equal_their_papers_formula(name: str, bound: Bound) -> None:
    model, (x, y) = chain(*SIZES), batch()
    found = METHODS[name].method.loss(trace(model, (4,)), x, y, at(EPS)).total
    robust = by_hand(bound, model, x, y).mean()
    natural = nn.functional.cross_entropy(model(x), y)
    expected = 0.5 * natural + 0.5 * robust if name == "lbp" else robust
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("factor", [0.0, 1.2, -1.0, math.nan])
def test_a_factor_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match="relu_shrinkage"):
        IBP(relu_shrinkage=factor)


def test_every_bound_is_in_the_table_and_certified_by_known_methods() -> None:
    for name, kind in BOUNDS.items():
        bound = kind()
        assert set(bound.certifiers) <= BOUNDING.keys(), name
        assert bound.certifiers[0] == "ibp"
    with pytest.raises(ConfigError):
        LBP(beta_end=1.5)
    with pytest.raises(ConfigError):
        LBP(lines="nothing")  # type: ignore[arg-type]
