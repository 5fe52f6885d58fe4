"""Several radii at once against sums written out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from bound_formulas import (
    at,
    ball,
    batch,
    chain,
    ibp,
    layers_of,
    losses,
    specification,
    substituted,
    through,
)
from torch import Tensor
from training_helpers import tiny_net

from taut.errors import ConfigError
from taut.graph import trace
from taut.training import METHODS, Batch, CrownIBP, FullBall, GridPoint, Mix, Radii, choose
from taut.training.region.radii import Family

EPS = 0.15
NORMALISED: tuple[Family, ...] = (
    "inverse-sqrt",
    "inverse",
    "inverse-square",
    "inverse-log",
    "constant",
    "increasing",
    "random",
)


@pytest.mark.parametrize("weights", NORMALISED)
@pytest.mark.parametrize("clip", [True, False])
def test_one_radius_is_the_method_it_is_built_on_bit_for_bit(weights: Family, clip: bool) -> None:
    model = tiny_net()
    graph = trace(model, (1, 4, 4))
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    ball_ = FullBall(clip=clip)
    one = Radii(1, weights, inner=ball_)
    assert one.coefficients() == (1.0,)
    for eps in (0.1, 0.3, 1 / 3):
        for bound in (CrownIBP(beta_end=1.0), METHODS["ibp"].method.bound):  # type: ignore[attr-defined]
            base = GridPoint(region=ball_, bound=bound)
            many = GridPoint(region=one, bound=bound)
            totals = [m.loss(graph, x, y, at(eps)).total for m in (base, many)]
            assert torch.equal(*totals)
            grads = [torch.autograd.grad(total, list(model.parameters())) for total in totals]
            assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_the_named_method_with_one_radius_is_crown_ibp_step_for_step() -> None:
    """Two networks, trained apart for some steps, end in the same weights."""
    ends = []
    for name, fields in (("gm-crown-ibp", {"count": 1}), ("crown-ibp", {"beta_end": 1.0})):
        method, model = choose(name, fields), tiny_net()
        graph, optimiser = trace(model, (1, 4, 4)), torch.optim.Adam(model.parameters())
        generator = torch.Generator().manual_seed(4)
        for step in range(4):
            x = torch.rand(6, 1, 4, 4, generator=generator)
            optimiser.zero_grad()
            method.loss(graph, x, torch.arange(6) % 3, at(0.05 * (step + 1), 0.2)).total.backward()
            optimiser.step()
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("weights", "total", "mean"),
    [
        ("inverse-sqrt", 5.021, 0.4475),
        ("inverse", 2.929, 0.341),
        ("inverse-square", 1.550, 0.189),
        ("inverse-log", 6.555, 0.4405),
        ("constant", 1.0, 0.55),
        ("increasing", 2.929, 0.759),
    ],
)
def test_ten_weights_have_the_sums_and_means_of_their_formulas(
    weights: Family, total: float, mean: float
) -> None:
    literal = Radii(10, weights, normalise=False).coefficients()
    assert sum(literal) == pytest.approx(total, abs=6e-4)
    found = Radii(10, weights).coefficients()
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-15)
    assert sum(c * i / 10 for i, c in enumerate(found, start=1)) == pytest.approx(mean, abs=6e-4)
    assert found == pytest.approx([c / sum(literal) for c in literal], rel=1e-12)
    falls = all(a >= b for a, b in itertools.pairwise(found))
    assert falls == (weights != "increasing")


def test_random_weights_are_drawn_once_for_a_seed() -> None:
    first, again, other = (Radii(10, "random", seed=s).coefficients() for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert math.fsum(first) == pytest.approx(1.0, abs=1e-15)
    assert all(weight > 0 for weight in first)
    literal = Radii(10, "random", seed=1, normalise=False).coefficients()
    assert all(0 < weight <= 1 for weight in literal)


def test_losses_of_ibp_do_not_fall_with_the_radius() -> None:
    model, (x, y) = chain(4, 7, 6, 3), batch()
    data = Batch(trace(model, (4,)), x, y)
    bound = METHODS["ibp"].method.bound  # type: ignore[attr-defined]
    values = [
        bound.bounded(data.network, box, y, at(EPS)).losses
        for box, *_ in Radii(10).boxes(data, EPS, at(EPS))
    ]
    for smaller, larger in itertools.pairwise(values):
        assert bool((smaller <= larger + 1e-12).all())
        assert bool((smaller < larger).any())


def crown_ibp(model: torch.nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """CROWN-IBP's losses with adaptive lines, of each image."""
    layers, (low, high) = layers_of(model), ball(x, eps)
    known = []
    inner = (low, high)
    for layer in layers[:-1]:
        known.append(through(layer, *inner))
        inner = (known[-1][0].relu(), known[-1][1].relu())
    found = []
    for i, label in enumerate(y.tolist()):
        last = specification(layers[-1], label)
        ends = [(a[i], b[i]) for a, b in known]
        eye = torch.eye(2, dtype=x.dtype)
        found.append(substituted([*layers[:-1], last], ends, (low[i], high[i]), eye, "adaptive"))
    return losses(found)


@pytest.mark.parametrize("name", ["gm-ibp", "gm-crown-ibp"])
@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({}, [1 / math.sqrt(i) for i in range(1, 11)]),
        ({"count": 4, "weights": "inverse"}, [1 / i for i in range(1, 5)]),
        ({"count": 4, "weights": "constant"}, [0.25] * 4),  # global robustness training
    ],
)
def test_the_loss_is_the_weighted_sum_over_the_radii(
    name: str, fields: dict[str, object], weights: list[float]
) -> None:
    model, (x, y) = chain(4, 7, 6, 3), batch()
    parameters, count = list(model.parameters()), len(weights)
    found = choose(name, fields).loss(trace(model, (4,)), x, y, at(EPS)).total
    robust = torch.zeros((), dtype=torch.float64)
    for i, weight in enumerate(weights, start=1):
        radius = EPS * i / count
        if name == "gm-ibp":
            loss = losses(ibp(layers_of(model), *ball(x, radius), y)).mean()
        else:
            loss = crown_ibp(model, x, y, radius).mean()
        robust = robust + weight / sum(weights) * loss
    expected = 0.5 * F.cross_entropy(model(x), y) + 0.5 * robust  # kappa is 0.5 at full eps
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for a, b in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_weights_as_printed_make_the_robust_loss_weigh_more() -> None:
    model, (x, y) = chain(4, 7, 6, 3), batch()
    graph = trace(model, (4,))
    literal, balanced = (
        GridPoint(region=Radii(10, normalise=on), combination=Mix(0.0, 0.0)).loss(
            graph, x, y, at(EPS)
        )
        for on in (False, True)
    )
    factor = sum(1 / math.sqrt(i) for i in range(1, 11))
    torch.testing.assert_close(literal.total, factor * balanced.total)
    assert len(literal.bounded) == 10


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.count"):
        Radii(0)
    with pytest.raises(ConfigError, match=r"method\.weights"):
        Radii(3, "falling")  # type: ignore[arg-type]
