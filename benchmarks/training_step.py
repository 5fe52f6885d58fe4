"""Cost of a certified training step over a plain step of the same network.

    python benchmarks/training_step.py [--json] [--repeats 7]

A plain step is zero_grad, forward, cross-entropy, backward and Adam, as PyTorch users
write it. A certified step is the loss of taut's own training method at half of the
ramp (clean pass, bounds and their mix), backward and Adam. Batch-norm networks use
batch statistics throughout. The peers' ratios were measured on another machine by the
same protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut.models
from taut.graph import trace
from taut.training import IBP, CrownIBP, GridPoint, Progress

CASES = (
    # name, input shape, batch, {method: (limit, peer, its ratio)}
    ("dm-small-p1", (1, 28, 28), 256, {"ibp": (3.2, 3.56), "crown-ibp": (18.0, 20.1)}),
    ("cnn7", (3, 32, 32), 32, {"ibp": (3.2, 3.36), "crown-ibp": (14.0, 15.7)}),
)
EPS = {"dm-small-p1": 0.1, "cnn7": 2 / 255}


def plain_step(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()

    return step


def certified_step(
    net: nn.Module, x: Tensor, y: Tensor, method: GridPoint, eps: float
) -> Callable[[], None]:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)
    graph = trace(net, x.shape[1:])
    progress = Progress(step=1, epoch=1, eps=eps, eps_max=2 * eps)

    def step() -> None:
        optimiser.zero_grad()
        method.loss(graph, x, y, progress).total.backward()
        optimiser.step()

    return step


def main() -> None:
    options = common.arguments(__doc__, repeats=7)
    methods = {"ibp": GridPoint(bound=IBP()), "crown-ibp": GridPoint(bound=CrownIBP())}
    rows = []
    for name, shape, batch, targets in CASES:
        if options.net not in (None, name):
            continue
        torch.manual_seed(0)
        x, y = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
        net = taut.models.build(name, shape, 10).train()
        found = common.ratios(
            plain_step(net, x, y),
            {m: certified_step(net, x, y, methods[m], EPS[name]) for m in targets},
            options.repeats,
        )
        rows += [
            common.Row("training step", name, m, batch, found[m], limit, "auto_LiRPA", peer)
            for m, (limit, peer) in targets.items()
        ]
    common.report(rows, options.json)


if __name__ == "__main__":
    main()
