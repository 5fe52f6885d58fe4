"""Cost of a certified training step over a plain step of the same network.

    python benchmarks/training_step.py [--json] [--repeats 7]

A plain step is zero_grad, forward, cross-entropy, backward and Adam, as PyTorch users
write it. A certified step is the loss of taut's own training method at half of the
ramp (clean pass, bounds and their mix), backward and Adam. Batch-norm networks use
batch statistics throughout. SABR takes 8 attack steps, AdvIBP one, GM-IBP five radii: its
limit is five times the bound part of IBP. The peers' ratios were measured on another machine by
the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut.models
from taut.graph import trace
from taut.training import Method, Progress, choose

EPS = {"dm-small-p1": 0.1, "cnn7": 2 / 255}
INPUTS = {"dm-small-p1": ((1, 28, 28), 256), "cnn7": ((3, 32, 32), 32)}
GM_RADII = 5

# method, {net: (limit, peer's ratio)}
CASES: tuple[tuple[str, dict[str, tuple[float | None, float | None]]], ...] = (
    ("ibp", {"dm-small-p1": (3.1, 3.56), "cnn7": (3.0, 3.36)}),
    ("crown-ibp", {"dm-small-p1": (14.0, 20.1), "cnn7": (12.0, 15.7)}),
    ("crown-ibp-fused", {"dm-small-p1": (4.5, 6.4), "cnn7": (4.2, 4.8)}),
    ("sabr", {"dm-small-p1": (9.0, None), "cnn7": (7.5, None)}),
    ("adv-ibp", {"dm-small-p1": (6.0, None), "cnn7": (6.0, None)}),
    ("gm-ibp", {"dm-small-p1": (None, None), "cnn7": (None, None)}),
)


def plain_step(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()

    return step


def certified_step(
    net: nn.Module, x: Tensor, y: Tensor, method: Method, eps: float
) -> Callable[[], None]:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)
    graph = trace(net, x.shape[1:])
    progress = Progress(
        step=1, epoch=1, eps=eps, eps_max=2 * eps, seeds=torch.arange(len(x)), memory={}
    )

    def step() -> None:
        optimiser.zero_grad()
        method.loss(graph, x, y, progress).total.backward()
        optimiser.step()

    return step


def main() -> None:
    options = common.arguments(__doc__, repeats=7)
    rows = []
    for name, (shape, batch) in INPUTS.items():
        if options.net not in (None, name):
            continue
        torch.manual_seed(0)
        x, y = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
        net = taut.models.build(name, shape, 10).train()
        steps = {
            method: certified_step(
                net, x, y, choose(method, {"count": GM_RADII} if "gm" in method else {}), EPS[name]
            )
            for method, _ in CASES
        }
        found = common.ratios(plain_step(net, x, y), steps, options.repeats)
        bound_part = found["ibp"] - 1.0  # what one radius costs beside the clean pass
        for method, limits in CASES:
            limit, peer = limits[name]
            if method == "gm-ibp":
                limit = 1.0 + GM_RADII * bound_part
            rows.append(
                common.Row(
                    "training step", name, method, batch, found[method], limit, "auto_LiRPA", peer
                )
            )
    common.report(rows, options.json)


if __name__ == "__main__":
    main()
