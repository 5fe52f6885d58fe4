r"""Where to split: how much of a bound is lost at each neuron, pixel and cell.

At a neuron with coefficient a, whose activation f lies between the lines L and U, the bound
loses :math:`a^+ (f - L) + a^- (f - U)`; a split at p, where the pieces of f meet or in the middle
of a smooth one, makes up for what is lost there:

.. math:: a^+ (f - L)(p) + |a^-| (U - f)(p)

and, where a line stays away from f at both ends, for the smaller of these distances too. For
ReLU's chord this is the intercept's share of the bound, :math:`|a^-| \frac{-l u}{u - l}`, the
score of Bunel et al. 2020 (BaBSR). A pixel scores its coefficient times its width, and a pixel
between cells the coefficient times the distance of its cells' values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from taut.graph.network import Node
from taut.operators.base import Activation
from taut.operators.cells import Steps
from taut.operators.forms import Bounds, Lines
from taut.operators.piecewise import PiecewiseLinear
from taut.operators.relu import ReLU
from taut.verify.branch.parts import NONE, Choices

_FLOOR = 0.1

NOWHERE = -1.0
"""The score of what cannot be split."""


class Scored(NamedTuple):
    """Scores of the neurons of a node ``(G, n)``, at which values to split them, and how."""

    node: int
    score: Tensor
    at: Tensor
    cells: bool = False


def of_neurons(node: Node, rows: Tensor, lines: Lines, bounds: Bounds) -> list[Scored]:
    """Score the inputs of an activation; ``rows`` are its coefficients ``(G, *shape)``.

    Shapes: lines as the activation has them, bounds those of its input, ``(G, *shape)``.
    """
    operator, source = node.operator, node.inputs[0]
    assert isinstance(operator, Activation)
    bends = operator.bends(bounds)
    if operator.axis is not None:
        middle = torch.lerp(bounds.lower, bounds.upper, 0.5)
        spread = rows.abs().unsqueeze(operator.axis + 1) * (bounds.upper - bounds.lower)
        return [_scored(source, spread, middle, bounds, bends)]
    above, below = rows.clamp(min=0), rows.clamp(max=0).neg()

    def lost(z: Tensor) -> tuple[Tensor, Tensor]:
        value = operator.forward(z)
        return (
            (value - _line(lines.lower_slope, lines.lower_intercept, z)).clamp(min=0),
            (_line(lines.upper_slope, lines.upper_intercept, z) - value).clamp(min=0),
        )

    ends = [
        torch.minimum(*pair) for pair in zip(lost(bounds.lower), lost(bounds.upper), strict=True)
    ]
    found = []
    for at in _points(operator, bounds):
        low, high = lost(at)
        score = above * (low + ends[0]) + below * (high + ends[1])
        found.append(_scored(source, score, at, bounds, bends))
    return found


def of_cells(operator: Steps, rows: Tensor, bounds: Bounds) -> Scored:
    """Score the pixels that lie in several cells; each is split at its middle threshold.

    ``rows`` are coefficients of the values ``(G, *shape)``, ``bounds`` of pixels ``(G, *shape)``.
    """
    if operator.thresholds.shape[-1] == 0:
        return Scored(0, torch.full_like(rows.flatten(1), NOWHERE), rows.flatten(1), cells=True)
    first, last = operator.cell(bounds.lower), operator.cell(bounds.upper)
    ends = operator.image(bounds)
    score = rows.abs() * (ends.upper - ends.lower)
    middle = torch.div(first + last + 1, 2, rounding_mode="floor").clamp(min=1)
    at = _thresholds(operator, bounds.lower).gather(-1, (middle - 1).unsqueeze(-1)).squeeze(-1)
    score = score.where(first < last, NOWHERE)
    return Scored(0, score.flatten(1), at.flatten(1), cells=True)


def of_pixels(rows: Tensor, bounds: Bounds, whole: Tensor) -> Scored:
    """Score pixels to be split in the middle; shapes ``(G, *shape)``.

    With ``whole``, the widths of the whole region, a coefficient counts as a tenth of the largest
    one at least: where it cancels in the linear bound the pixel may matter all the same, and no
    pixel is split on and on while others are left alone.
    """
    middle = torch.lerp(bounds.lower, bounds.upper, 0.5)
    weight = rows.abs() * whole
    least = _FLOOR * weight.flatten(1).amax(1).view(-1, *[1] * (rows.dim() - 1))
    share = (bounds.upper - bounds.lower) / whole.where(whole > 0, 1.0)
    every = torch.ones_like(share, dtype=torch.bool)
    return _scored(0, torch.maximum(weight, least) * share, middle, bounds, every)


def best(scored: list[Scored], count: int) -> Choices:
    """Return the ``count`` splits of highest score in each row, ``(G, count)`` at most."""
    scores = torch.cat([entry.score for entry in scored], 1)
    top = scores.topk(min(count, scores.shape[1]), 1)
    order = top.indices
    at = torch.cat([entry.at for entry in scored], 1).gather(1, order)

    def column(values: list[Tensor]) -> Tensor:
        return torch.cat(values).to(order.device)[order]

    sizes = [entry.score.shape[1] for entry in scored]
    node = column([torch.full((n,), e.node) for e, n in zip(scored, sizes, strict=True)])
    neuron = column([torch.arange(n) for n in sizes])
    cells = column([torch.full((n,), e.cells) for e, n in zip(scored, sizes, strict=True)])
    below = torch.nextafter(at, torch.full_like(at, -torch.inf))
    return Choices(
        node.where(top.values > NOWHERE, NONE), neuron, torch.where(cells, below, at), at
    )


def _scored(node: int, score: Tensor, at: Tensor, bounds: Bounds, bends: Tensor) -> Scored:
    inside = bends & (bounds.lower < at) & (at < bounds.upper)
    return Scored(node, score.where(inside, NOWHERE).flatten(1), at.flatten(1))


def _line(slope: Tensor, intercept: Tensor | None, z: Tensor) -> Tensor:
    return slope * z if intercept is None else slope * z + intercept


def _points(operator: Activation, bounds: Bounds) -> list[Tensor]:
    """Return where an activation's input may be split, each of the bounds' shape."""
    like = bounds.lower
    if isinstance(operator, ReLU):
        return [torch.zeros_like(like)]
    if isinstance(operator, PiecewiseLinear):
        return [knee.expand_as(like) for knee in operator.knees(like)]
    return [torch.lerp(like, bounds.upper, 0.5)]


def _thresholds(operator: Steps, like: Tensor) -> Tensor:
    """Return the thresholds of every pixel, ``(B, *shape, T)``."""
    rows = operator.thresholds.to(like)
    rows = rows.expand(like.shape[1], -1)
    rows = rows.view(1, len(rows), *[1] * (like.dim() - 2), rows.shape[1])
    return rows.expand(*like.shape, -1)
