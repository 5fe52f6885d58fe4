r"""What a linear bound leaves of a part: bounds of every neuron where a margin could still fail.

Where :math:`a x + c \le m(x)` bounds a margin on a part, the points of the part at which the
margin is at most :math:`\tau` lie in the half-space :math:`a x + c \le \tau`. A neuron z with
:math:`w x + b \le z` is bounded on the box and the half-space by

.. math:: z \ge \max_{\gamma \ge 0} \min_{x \in \text{box}} (w + \gamma a) x + b
          + \gamma (c - \tau),

which holds for each :math:`\gamma`. With s what :math:`\tau` exceeds the least value of the linear
bound by, and r the radii of the box, that is
:math:`w x_0 + b + \gamma (|a| r - s) - |w + \gamma a| r` with the midpoint :math:`x_0`; pixels
that w does not read cancel. The nearer a part is to being proved the smaller s, and the more is
left out. Bounds found so hold where the margin is at most :math:`\tau` and nowhere else, so a
margin bounded with them is proved to be at least the smaller of its bound and :math:`\tau`.
Source: the dual with the output constraint of Kotha et al. 2023 (INVPROP), with one form for all
neurons; Zhou et al. 2025 (Clip-and-Verify).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.cuts import in_order
from taut.bounds.form import Form, pick
from taut.bounds.interval import Intermediate
from taut.bounds.refine import bounded, renewed, scatter
from taut.bounds.rows import chunk_size, unit_rows
from taut.operators.forms import Bounds
from taut.region import Box
from taut.verify.branch.choose import Scored

_SCALES = (0.25, 1.0, 4.0)
"""Multipliers tried, of the one that makes both forms alike in size."""

_ROUNDING = 64
"""Last bits of a linear bound's terms that its least value may be off by."""

Worth = Mapping[int, Tensor]
"""Which neurons are bounded, by node, ``(N, n)``."""


@dataclass(frozen=True, eq=False)
class Half:
    """Half-spaces of the input, one for each part.

    Attributes
    ----------
    rows
        The linear forms, ``(N, *shape)``.
    slack
        By how much they may exceed their least values on the parts' boxes, ``(N,)``.
    spread
        By how much they can, ``(N,)``.
    """

    rows: Tensor
    slack: Tensor
    spread: Tensor

    def __getitem__(self, index: Tensor) -> Half:
        return Half(self.rows[index], self.slack[index], self.spread[index])

    @classmethod
    def below(cls, level: Tensor, rows: Tensor, least: Tensor, box: Box) -> Half:
        """Return where forms ``rows`` of least value ``(N,)`` on a box are at most ``level``."""
        sizes = torch.maximum(box.lower.abs(), box.upper.abs())
        terms = (rows.abs() * sizes).flatten(1).sum(1) + least.abs()
        slack = (level.to(least) - least).clamp(min=0)
        slack = slack + _ROUNDING * torch.finfo(least.dtype).eps * terms
        return cls(rows, slack, 2 * (rows.abs() * box.radius).flatten(1).sum(1))


def worth(scores: Sequence[Scored], count: int) -> Worth:
    """Return the ``count`` neurons at which each part's bound loses most."""
    if not scores:
        return {}
    every = torch.cat([entry.score for entry in scores], 1)
    top = every.topk(min(count, every.shape[1]), 1).indices
    marks = torch.zeros_like(every, dtype=torch.bool).scatter(1, top, value=True) & (every > 0)
    found: dict[int, Tensor] = {}
    sizes = [entry.score.shape[1] for entry in scores]
    for entry, mark in zip(scores, marks.split(sizes, 1), strict=True):
        before = found.get(entry.node)
        found[entry.node] = mark if before is None else before | mark
    return found


def clipped(
    inter: Intermediate, half: Half, neurons: Worth, start: str, budget: int
) -> Intermediate:
    """Return bounds of every node that hold on half-spaces, crossed ends put in order.

    Parameters
    ----------
    inter
        Bounds of every node over each part.
    half
        One half-space a part. Where it holds no point of the part every number is a bound.
    neurons
        Which neurons are bounded by it.
    start
        The family of lines of these neurons' forms.
    budget
        Bytes for coefficients.

    """
    net, stale = inter.net, set[int]()
    for node in net.nodes[1:]:
        index = node.index
        if any(source in stale for source in node.inputs):
            inter = in_order(renewed(inter, node), index)
            stale.add(index)
        if index not in neurons:
            continue
        known = inter.at(index)
        bends = torch.stack([r.bends(known).flatten(1) for r in net.bent()[index]]).any(0)
        pairs = (bends & neurons[index]).nonzero()
        if len(pairs):
            better = scatter(known, pairs, _bounded(inter, index, pairs, half, start, budget))
            best = known.intersect(better)
            inter = in_order(bounded(inter, index, best), index)
            stale.add(index)
    return inter


def _bounded(
    inter: Intermediate, source: int, pairs: Tensor, half: Half, start: str, budget: int
) -> Bounds:
    """Bound single neurons of a node; ``pairs (P, 2)`` are of part and neuron."""
    node, relaxation = inter.net.nodes[source], backward.family(inter, start)
    lows, highs = [], []
    for some in pairs.split(chunk_size(inter, source, pairs, relaxation, budget)):
        form, constant = backward.substitute(
            inter.net,
            source,
            unit_rows(node, some[:, 1], inter.like),
            relaxation=relaxation,
            samples=some[:, 0],
        )
        if form is None:  # nothing on the way back depends on the input
            assert constant is not None
            found = constant
        else:
            found = _least(inter.region.box, form, constant, some[:, 0], half)
        lows.append(found[:, 0])
        highs.append(-found[:, 1])
    return Bounds(torch.cat(lows), torch.cat(highs))


def _least(box: Box, form: Form, constant: Tensor | None, part: Tensor, half: Half) -> Tensor:
    """Return lower bounds ``(P, R)`` of forms over the box and the half-space of their parts."""
    size = form.size if form.window is not None else (0, 0)

    def seen(values: Tensor) -> Tensor:
        return pick(values, part, form.window, size).flatten(1)

    rows, a = form.rows.flatten(2), seen(half.rows).unsqueeze(1)
    radius = seen(box.radius).unsqueeze(2)
    value = torch.bmm(rows, seen(box.center).unsqueeze(2)).squeeze(2)
    value = value if constant is None else value + constant
    reach = torch.bmm(rows.abs(), radius).squeeze(2)
    own = torch.bmm(a.abs(), radius).squeeze(2)
    gain, best = own - half.slack[part].unsqueeze(1), value - reach
    scale = reach / own.clamp(min=torch.finfo(own.dtype).tiny)
    for factor in _SCALES:
        gamma = (factor * scale).where(scale.isfinite(), 0.0)
        mixed = torch.addcmul(rows, gamma.unsqueeze(2), a).abs_()
        other = value + gamma * gain - torch.bmm(mixed, radius).squeeze(2)
        best = torch.fmax(best, other.where(other.isfinite(), -torch.inf))
    return best
