"""Half-spaces in which a margin can fail: bounds of neurons there against samples and programs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from branch_nets import case, dense, margin_at, question, status
from scipy.optimize import linprog
from torch import Tensor, nn

from taut.bounds import Ascent, Intermediate
from taut.graph import trace
from taut.region import Box
from taut.verify.branch import Branch, search
from taut.verify.branch.choose import NOWHERE, Scored
from taut.verify.branch.clip import Half, Worth, clipped, worth
from taut.verify.branch.known import crown, rooted

QUICK = Ascent(iterations=6)
SPLIT = Branch(QUICK, QUICK, pixels=0, candidates=1)
BUDGET = 2**24


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip
    return net.double().eval().requires_grad_(False)


def rooted_at(net: nn.Module, box: Box) -> Intermediate:
    shape = tuple(box.shape[1:])
    return rooted(trace(net, shape).instance().detached(), box, [crown("adaptive", BUDGET)])


def everything(inter: Intermediate) -> Worth:
    return {i: torch.ones_like(inter.at(i).lower.flatten(1)).bool() for i in inter.net.bent()}


def halves(box: Box, share: float, seed: int) -> tuple[Half, Tensor, Tensor]:
    """Random forms, and the levels that leave ``share`` of what they can reach."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(box.shape, generator=g, dtype=box.dtype)
    least = (rows * box.center - rows.abs() * box.radius).flatten(1).sum(1)
    spread = 2 * (rows.abs() * box.radius).flatten(1).sum(1)
    level = least + share * spread
    return Half.below(level, rows, least, box), rows, level


def inside(box: Box, rows: Tensor, level: Tensor, count: int, seed: int) -> Tensor:
    """Points of each box where its form is at most the level, ``(count, N, *shape)``."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.where(rows > 0, box.lower, box.upper)
    random = torch.rand(count, *box.shape, generator=g, dtype=box.dtype)
    random = torch.where(torch.rand(random.shape, generator=g) < 0.5, random.round(), random)
    points = box.lower + random * (box.upper - box.lower)
    # On the way to the corner where the form is least, as far as it takes and now and then more.
    high, low = (rows * points).flatten(2).sum(2), (rows * corner).flatten(1).sum(1)
    part = ((high - level) / (high - low)).clamp(min=0)
    part = torch.maximum(part, torch.rand(part.shape, generator=g, dtype=box.dtype) * 0.2)
    part = part.view(*part.shape, *[1] * (rows.dim() - 1))
    return torch.lerp(points, corner.expand_as(points), part)


def every_node(inter: Intermediate, points: Tensor) -> list[Tensor]:
    values = [points]
    for node in inter.net.nodes[1:]:
        assert node.operator is not None
        values.append(node.operator.forward(*(values[i] for i in node.inputs)))
    return values


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("kind", ["conv", "relu", "leaky", "sigmoid"])
def test_points_of_the_half_spaces_stay_in_the_bounds(kind: str, share: float) -> None:
    net = convolutional() if kind == "conv" else dense(kind, 2)
    shape = (1, 8, 8) if kind == "conv" else (3,)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    box = Box.around(x, 0.3)
    inter = rooted_at(net, box)
    half, rows, level = halves(box, share, 1)
    better = clipped(inter, half, everything(inter), "adaptive", BUDGET)
    points = inside(box, rows, level, 400, 2)
    values = every_node(inter, points.flatten(0, 1))
    gained = False
    for node, wide in ((i, inter.at(i)) for i in inter.net.bent()):
        tight = better.at(node)
        assert bool((tight.lower >= wide.lower).all())
        assert bool((tight.upper <= wide.upper).all())
        gained |= bool((tight.upper - tight.lower < 0.99 * (wide.upper - wide.lower)).any())
        seen = values[node].view(400, 4, *tight.lower.shape[1:])
        assert bool((seen >= tight.lower - 1e-9).all())
        assert bool((seen <= tight.upper + 1e-9).all())
    assert gained or share > 0.5


def test_first_layers_come_near_their_linear_programs() -> None:
    """Neurons affine in the input have exact minima on a box cut by a half-space."""
    net = dense("relu", 1, inputs=6)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    box = Box.around(x, 0.4, None)
    inter = rooted_at(net, box)
    half, rows, level = halves(box, 0.1, 4)
    first = min(inter.net.bent())
    tight, wide = (
        clipped(inter, half, everything(inter), "adaptive", BUDGET).at(first),
        inter.at(first),
    )
    weight, bias = net[0].weight, net[0].bias
    won = lost = 0.0
    for i, neuron in itertools.product(range(3), range(len(bias))):
        if not bool(wide.unstable[i, neuron]):
            continue
        exact = linprog(
            weight[neuron].numpy(), rows[i][None].numpy(), level[i : i + 1].numpy(),
            bounds=list(zip(box.lower[i].tolist(), box.upper[i].tolist(), strict=True)),
        ).fun + float(bias[neuron])  # fmt: skip
        assert wide.lower[i, neuron] - 1e-9 <= tight.lower[i, neuron] <= exact + 1e-9
        won += float(tight.lower[i, neuron] - wide.lower[i, neuron])
        lost += exact - float(tight.lower[i, neuron])
    assert won > 5 * lost  # three multipliers, not all


def test_neurons_of_the_highest_scores_are_chosen() -> None:
    score = torch.tensor([[3.0, NOWHERE, 0.5], [1.0, 2.0, NOWHERE]])
    more = torch.tensor([[1.0, 2.0], [NOWHERE, NOWHERE]])
    found = worth([Scored(1, score, score), Scored(4, more, more)], 2)
    assert found[1].tolist() == [[True, False, False], [True, True, False]]
    assert found[4].tolist() == [[False, True], [False, False]]
    assert worth([], 3) == {}


@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_clipped_trees_decide_the_same_and_are_smaller(activation: str) -> None:
    sizes = {0: 0, 256: 0}
    for seed, sign in itertools.product(range(4), (1.0, -1.0)):
        asked, exact = case(activation, seed, sign)
        for clip in sizes:
            (answer,) = replace(SPLIT, clip=clip).decide(asked)
            assert status(answer) == ("verified" if sign > 0 else "falsified")
            assert answer.bound <= exact + 1e-9
            sizes[clip] += answer.parts if sign > 0 else 0
            if answer.point is not None:
                assert margin_at(asked, 0, answer.point) < 0
    assert sizes[256] < sizes[0]


def test_parts_that_keep_nothing_decide_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_KEPT", 0)
    for seed, sign in itertools.product(range(2), (1.0, -1.0)):
        asked, exact = case("relu", seed, sign)
        (answer,) = SPLIT.decide(asked)
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        assert answer.bound <= exact + 1e-9


def test_every_open_margin_is_decided() -> None:
    """Images with several open margins: the least of all counts, whichever is split first."""
    seen = set()
    for seed in range(6):
        net = dense("relu", seed, inputs=4)
        x = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y = net(x).argmax(1)
        asked = question(net, Box.around(x, 0.3, None), y)
        points = inside_box(asked.box, 20_000, seed)
        logits = net(points)
        others = [j for j in range(logits.shape[1]) if j != int(y)]
        sampled = float((logits[:, [int(y)]] - logits[:, others]).min())
        (answer,) = SPLIT.decide(asked)
        assert answer.bound <= sampled + 1e-9
        assert status(answer) in ("verified", "falsified")
        if sampled < 0:
            assert status(answer) == "falsified"
        seen.add(status(answer))
    assert seen == {"verified", "falsified"}


def inside_box(box: Box, count: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    random = torch.rand(count, *box.shape[1:], generator=g, dtype=box.dtype)
    return box.lower + random * (box.upper - box.lower)
