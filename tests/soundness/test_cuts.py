"""Split constraints: sound on their part of the region, and exact once everything is split."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from taut.bounds import interval
from taut.bounds.cuts import Cuts, cut
from taut.bounds.methods import Optimised
from taut.bounds.optimised import Ascent
from taut.graph import Network, trace
from taut.operators.forms import Bounds
from taut.region import Box
from tests.counts import cases
from tests.soundness.harness import generator, least_inside, points_of, random_box

SEEDS = st.integers(0, 2**20)


def two_layers(seed: int, width: int) -> tuple[nn.Sequential, Network, Box, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        ).double()
        for weight in module.parameters():
            weight.data.mul_(2)
    box = random_box(generator(seed), 1, 3, scale=0.5)
    return module, trace(module, (3,)).instance(), box, module(box.center).argmax(1)


def signs_to_cuts(signs: dict[int, Tensor]) -> Cuts:
    """Cuts at zero: positive signs hold the neuron above, negative ones below, 0 leaves it."""
    return {
        index: Bounds(
            torch.where(s > 0, 0.0, -math.inf).double(), torch.where(s < 0, 0.0, math.inf).double()
        )
        for index, s in signs.items()
    }


def pattern_minimum(
    module: nn.Sequential, box: Box, y: int, other: int, one: np.ndarray, two: np.ndarray
) -> float:
    """Minimise a margin over the points with these neurons active; +inf where there are none."""
    first, second, last = (m for m in module if isinstance(m, nn.Linear))
    w1, b1 = first.weight.detach().numpy(), first.bias.detach().numpy()
    w2, b2 = second.weight.detach().numpy(), second.bias.detach().numpy()
    row = (last.weight[y] - last.weight[other]).detach().numpy()
    shift = float((last.bias[y] - last.bias[other]).detach())
    z2, c2 = w2 @ (one[:, None] * w1), w2 @ (one * b1) + b2
    a = np.concatenate([(1 - 2 * one)[:, None] * w1, (1 - 2 * two)[:, None] * z2])
    c = -np.concatenate([(1 - 2 * one) * b1, (1 - 2 * two) * c2])
    bounds = list(zip(box.lower[0].tolist(), box.upper[0].tolist(), strict=True))
    found = linprog((row * two) @ z2, a, c, bounds=bounds)
    return float(found.fun) + float((row * two) @ c2) + shift if found.status == 0 else math.inf


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_without_splits_it_is_alpha_crown(seed: int, shared: bool) -> None:
    _, net, box, y = two_layers(seed, 6)
    method = Optimised(Ascent(iterations=5, shared=shared))
    plain = method.margins(net, box, y)
    assert torch.equal(method.margins(net, box, y, {}), plain)
    nothing = signs_to_cuts({1: torch.zeros(1, 6), 3: torch.zeros(1, 6)})
    assert torch.equal(method.margins(net, box, y, nothing), plain)


@pytest.mark.parametrize("seed", range(cases(6)))
def test_with_everything_split_the_multipliers_reach_the_linear_program(seed: int) -> None:
    module, net, box, y = two_layers(seed, 5)
    point = points_of(box, generator(seed + 1), 1)[0]
    one = module[0](point)
    two = module[2](module[1](one))
    cuts = signs_to_cuts({1: one.detach(), 3: two.detach()})
    label, other = int(y), (int(y) + 1) % 3
    active = (one[0] > 0).double().numpy(), (two[0] > 0).double().numpy()
    exact = pattern_minimum(module, box, label, other, *active)
    ascent = Ascent(iterations=500, multiplier_rate=0.2, decay=0.99)
    found = float(Optimised(ascent, every=False).margins(net, box, y, cuts)[0, other])
    without = float(Optimised(Ascent(iterations=0)).margins(net, box, y, cuts)[0, other])
    assert without <= found <= exact + 1e-7
    assert exact - found <= 2e-3 * max(1.0, abs(exact))


@pytest.mark.parametrize("seed", range(3))
def test_branching_lies_between_the_unsplit_bound_and_the_exact_minimum(seed: int) -> None:
    """exact minimum >= the least bound over all patterns >= alpha-CROWN without splits."""
    module, net, box, y = two_layers(seed, 3)
    label, other = int(y), (int(y) + 1) % 3
    root = float(Optimised(Ascent(iterations=50)).margins(net, box, y)[0, other])
    method = Optimised(Ascent(iterations=300, multiplier_rate=0.2, decay=0.99), every=False)
    patterns = list(itertools.product(itertools.product((0.0, 1.0), repeat=3), repeat=2))
    signs = {1 + 2 * k: 2 * torch.tensor([p[k] for p in patterns]) - 1 for k in range(2)}
    copies = Box(*(end.expand(len(patterns), -1) for end in (box.lower, box.upper)))
    labels = y.expand(len(patterns))
    bounds = method.margins(net, copies, labels, signs_to_cuts(signs))[:, other]
    minima = torch.tensor(
        [
            pattern_minimum(module, box, label, other, np.array(one), np.array(two))
            for one, two in patterns
        ]
    ).double()
    assert bool((bounds <= minima + 1e-7).all())
    exact, least = float(minima.min()), float(bounds.min())
    slack = 2e-3 * max(1.0, abs(exact))  # what the ascent has not climbed yet
    assert root - slack <= least <= exact + 1e-7
    assert exact - least <= slack


def conv_net(activation: type[nn.Module], seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            activation(),
            nn.Conv2d(3, 4, 3, stride=2),
            activation(),
            nn.Flatten(),
            nn.Linear(36, 3),
        ).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Hardtanh])
@settings(max_examples=cases(6), deadline=None)
@given(seed=SEEDS)
def test_no_point_that_satisfies_the_cuts_undercuts_the_bound(
    activation: type[nn.Module], seed: int
) -> None:
    module = conv_net(activation, seed)
    net = trace(module, (1, 7, 7)).instance()
    g = generator(seed)
    box = random_box(g, 2, 1, 7, 7, scale=0.6)
    points = points_of(box, g, 400)
    values = {index: _values(net, points, index) for index in net.bent()}
    cuts: dict[int, Bounds] = {}
    for i, found in values.items():  # cut where some points lie on either side
        median = found.median(0).values
        which = torch.rand(median.shape, generator=g) < 0.03
        above = torch.rand(median.shape, generator=g) < 0.5
        cuts[i] = Bounds(
            torch.where(which & above, median, -math.inf),
            torch.where(which & ~above, median, math.inf),
        )
    y = torch.tensor([0, 2])
    for every in (True, False):
        bound = Optimised(Ascent(iterations=3), every=every).margins(net, box, y, cuts)
        logits = net(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        margins = logits.gather(2, y.expand(400, 2)[..., None]) - logits
        lowest = least_inside(margins, values, cuts)
        known = bound.isfinite()
        assert bool((bound[known] <= lowest[known] + 1e-9).all())


def _values(net: Network, points: Tensor, index: int) -> Tensor:
    part = Network(net.nodes[: index + 1])
    return part(points.flatten(0, 1)).unflatten(0, points.shape[:2]).detach()


def test_cuts_tighten_the_nodes_behind_and_hold_themselves() -> None:
    _, net, box, _ = two_layers(3, 6)
    inter = interval.propagate(net, box)
    before = inter.at(1)
    upper = torch.where(before.unstable, 0.0, math.inf)
    after = cut(inter, {1: Bounds(torch.full_like(upper, -math.inf), upper)})
    assert bool(before.unstable.any())
    assert not bool(after.at(1).unstable.any())
    for index in range(len(net.nodes)):
        assert bool((after.at(index).lower >= inter.at(index).lower - 1e-12).all())
        assert bool((after.at(index).upper <= inter.at(index).upper + 1e-12).all())
    behind, once = after.at(3), inter.at(3)
    assert bool((behind.upper - behind.lower < once.upper - once.lower - 1e-3).any())
