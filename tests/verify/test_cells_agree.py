"""Networks on cells: three ways to decide agree, and no attack contradicts a proof."""

from __future__ import annotations

import itertools

import torch
from branch_nets import question, status
from torch import Tensor, nn

from taut.attacks import PGD, Flips
from taut.bounds import METHODS
from taut.bounds.optimised import Ascent
from taut.graph import trace
from taut.models import Cells
from taut.region import Box
from taut.verify.branch import Branch
from taut.verify.mip import MIP
from tests.counts import cases

PIXELS, CLASSES = 6, 3
EMITS = ("levels", "ends")
SHORT = Ascent(iterations=3)
BRANCH = Branch(SHORT, SHORT, combinations=4, every=False, candidates=1)


def network(seed: int) -> nn.Sequential:
    """A small network on 2 to 4 cells of 6 pixels, both forms of cells in turn."""
    emit, n = EMITS[seed % 2], 2 + seed % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            Cells(n, emit=emit), nn.Flatten(), nn.Linear(PIXELS * (1 + seed % 2), 6), nn.ReLU(),
            nn.Linear(6, CLASSES),
        )  # fmt: skip
    for layer in (net[2], net[4]):
        layer.weight.data.mul_(2)
    return net.double().eval().requires_grad_(False)


def images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Images, and a radius for each, from one that moves few pixels to one that moves most."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 2, 3, generator=generator, dtype=torch.float64)
    return x, 0.02 + 0.25 * torch.rand(count, generator=generator, dtype=torch.float64)


def least(net: nn.Sequential, box: Box, y: int) -> float:
    """The least margin over all combinations of cells a box meets, each by one of its pixels."""
    edges, width = net[0].thresholds.tolist(), box.lower[0].numel()
    low, high = (end[0].flatten().tolist() for end in (box.lower, box.upper))
    each = [[low[i], *(t for t in edges if low[i] < t <= high[i])] for i in range(width)]
    points = torch.tensor(list(itertools.product(*each)), dtype=torch.float64)
    logits = net(points.view(-1, *box.shape[1:]))
    others = [j for j in range(CLASSES) if j != y]
    return float((logits[:, [y]] - logits[:, others]).min())


def test_enumeration_branch_and_bound_and_programs_agree() -> None:
    """On 300 images; a margin of exactly zero does not occur."""
    count = {"verified": 0, "falsified": 0}
    for seed in range(cases(30)):
        net = network(seed)
        x, eps = images(seed, 10)
        box, y = Box.around(x, eps), net(x).argmax(1)
        exact = [least(net, box[i : i + 1], int(y[i])) for i in range(len(x))]
        asked = question(net, box, y)
        wanted = ["verified" if value > 0 else "falsified" for value in exact]
        for method in (BRANCH, MIP()):
            found = method.decide(asked)
            assert [status(answer) for answer in found] == wanted, (seed, method)
            assert all(a.bound <= m + 1e-9 for a, m in zip(found, exact, strict=True))
        for each in wanted:
            count[each] += 1
    assert min(count.values()) > cases(60), count


def test_no_attack_contradicts_a_proof() -> None:
    """On 10,000 images, a hundred networks; proofs by bounds and by branch and bound."""
    proofs = broken = 0
    for seed in range(cases(100)):
        net = network(1000 + seed)
        x, eps = images(1000 + seed, 100)
        box, y = Box.around(x, eps), net(x).argmax(1)
        operators = trace(net, tuple(x.shape[1:])).instance()
        proved = METHODS["crown"].margins(operators, box, y).amin(1) > 0
        answers = BRANCH.decide(question(net, box, y))
        proved |= torch.tensor([status(answer) == "verified" for answer in answers])
        for attack in (Flips(steps=8, restarts=2), PGD(steps=8, step=0.5)):
            found = attack(net, x, y, box)
            hit = found.success
            assert bool(box.contains(found.point).all())
            assert torch.equal(hit, net(found.point).argmax(1) != y)
            assert not bool((hit & proved).any()), (seed, attack)
            broken += int(hit.sum())
        proofs += int(proved.sum())
    assert proofs > cases(2000)
    assert broken > cases(2000)
