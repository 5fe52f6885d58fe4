"""How far an adversary reaches into the cells of a network's first layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taut.data import ImageSet
from taut.models import Cells
from taut.operators.cells import Steps
from taut.operators.forms import Bounds
from taut.verify.boxes import Range, exact_box

CHUNK = 256
"""Images looked at together."""


def describe(grid: Cells) -> dict[str, Any]:
    """Return a grid in plain values, enough for :func:`steps_of`.

    Even grids: ``emit``, ``n``, ``offset``. Others: ``emit``, ``thresholds``, one list or one
    per channel; learned ones are those of this moment, in ascending order, with ``learn``.
    """
    told = grid.configuration()
    even = "n" in told and not told.get("learn")
    edges = grid.steps().thresholds.detach().tolist()
    return {
        "emit": grid.emit,
        **({"n": told["n"], "offset": told.get("offset", 0.0)} if even else {"thresholds": edges}),
        **({"learn": True} if told.get("learn") else {}),
    }


def steps_of(grid: Mapping[str, Any]) -> Steps:
    """Return the staircase of a described grid, on the CPU, with the cells' indices as values."""
    if "thresholds" in grid:
        edges = torch.tensor(grid["thresholds"], dtype=torch.float32)
    else:
        edges = Cells(grid["n"], emit=grid["emit"], offset=grid["offset"]).thresholds
    return Steps(edges, torch.arange(edges.shape[-1] + 1))


def straddling(steps: Steps, x: Tensor, eps: float, data_range: Range | None) -> Tensor:
    r"""Tell which values of images an adversary can move to another cell.

    .. math:: k(\max(x - \varepsilon, lo)) \ne k(\min(x + \varepsilon, hi))

    with the ends of the region in float64, in which counterexamples are judged.

    Parameters
    ----------
    steps
        Of the grid.
    x
        Images ``(B, C, ...)`` of raw pixels.
    eps
        Radius in pixel units of [0, 1].
    data_range
        Pixel range; None leaves the ball whole.

    Returns
    -------
    Booleans of the shape of ``x``: one for each value, so three per pixel of a colour image.

    """
    box = exact_box(x, eps, data_range)
    return steps.bends(Bounds(box.lower, box.upper))


def figures(
    grid: Cells, images: ImageSet, eps: float, data_range: Range | None, natural_accuracy: float
) -> dict[str, Any]:
    """Return the table ``cells`` of a ``summary.json``, see :mod:`taut.store.summary`.

    Parameters
    ----------
    grid
        The network's first layer.
    images
        All images that the summary counts.
    eps, data_range
        The region.
    natural_accuracy
        Of the network on these images, which is its cell accuracy.

    """
    told = describe(grid)
    steps, counts = steps_of(told), []
    for start in range(0, len(images), CHUNK):
        x = images.pixels(slice(start, start + CHUNK)).cpu()
        counts.append(straddling(steps, x, eps, data_range).flatten(1).sum(1))
    each = torch.cat(counts)
    pixels = images.images[0].numel()
    mean = int(each.sum()) / len(images)
    return {
        "grid": told,
        "cell_accuracy": natural_accuracy,
        "pixels": pixels,
        "straddling_share": mean / pixels,
        "straddling_mean": mean,
        "straddling_most": int(each.max()),
        "without_straddling": int((each == 0).sum()),
    }


def levels(steps: Steps, x: Tensor) -> Tensor:
    """Return for drawing the cells of images ``(B, C, ...)``, from 0 (the first) to 1 (the last).

    0.5 where a channel has one cell only.
    """
    rows = steps.thresholds.expand(x.shape[1], -1)
    last = torch.isfinite(rows).sum(1).view(-1, *[1] * (x.dim() - 2))
    found = steps.cell(x) / last.clamp(min=1)
    return torch.where(last == 0, 0.5, found)
