"""Few pixels between cells: every combination of their cells evaluated, which decides a part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taut.graph.network import Network
from taut.operators.cells import Steps
from taut.property import true_margins
from taut.region import Box


def combinations(net: Network, box: Box) -> Tensor:
    """Return how many combinations of cells each box holds, float64 ``(N,)``.

    Networks that read pixels through several grids at once have their edges counted together.
    """
    count = torch.ones_like(box.lower, dtype=torch.float64)
    for operator in _grids(net):
        count = count + (operator.cell(box.upper) - operator.cell(box.lower))
    return count.flatten(1).log().sum(1).exp().round()


def least(net: Network, box: Box, label: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the least margins ``(K,)`` over the cells of one box, and a point of the worst.

    ``box`` holds one image; ``label`` is its class, ``(1,)``. ``chunk`` points are evaluated at
    once. A margin that is not finite counts as -inf.
    """
    pixels, values = _values(net, box)
    base = box.lower[0].flatten()
    strides = [math.prod(len(v) for v in values[i + 1 :]) for i in range(len(values))]
    total = math.prod(len(v) for v in values)
    found = base.new_full((net.classes,), torch.inf)
    point, lowest = base, math.inf
    for start in range(0, total, chunk):
        each = torch.arange(start, min(start + chunk, total), device=base.device)
        points = base.expand(len(each), -1).clone()
        for pixel, value, stride in zip(pixels, values, strides, strict=True):
            points[:, pixel] = value[torch.div(each, stride, rounding_mode="floor") % len(value)]
        logits = net(points.view(-1, *box.shape[1:]))
        margins = true_margins(logits, label.expand(len(each)))
        margins = margins.where(logits.isfinite().all(1, keepdim=True), -torch.inf)
        found = torch.minimum(found, margins.amin(0))
        worst = margins.amin(1)
        if float(worst.min()) < lowest:
            lowest, point = float(worst.min()), points[worst.argmin()]
    return found, point.view(box.shape[1:])


def _grids(net: Network) -> list[Steps]:
    return [node.operator for node in net.nodes if isinstance(node.operator, Steps)]


def _values(net: Network, box: Box) -> tuple[list[int], list[Tensor]]:
    """Return the pixels of a box that can be in several cells, and a value in each of these."""
    low, high = box.lower[0], box.upper[0]
    edges: dict[int, list[Tensor]] = {}
    for operator in _grids(net):
        straddling = (operator.cell(box.lower) != operator.cell(box.upper))[0].flatten()
        rows = operator.thresholds.to(low).expand(low.shape[0], -1)
        width = math.prod(low.shape[1:])
        for pixel in straddling.nonzero()[:, 0].tolist():
            row, (l, u) = rows[pixel // width], (low.flatten()[pixel], high.flatten()[pixel])  # noqa: E741
            edges.setdefault(pixel, [l[None]]).append(row[(row > l) & (row <= u)])
    pixels = sorted(edges)
    return pixels, [torch.cat(edges[pixel]).unique() for pixel in pixels]
