r"""Split constraints: bounds that hold by decree in one part of a branching.

A cut says :math:`c \le z_i` or :math:`z_i \le d` of a neuron before its activation, and a region
with cuts is the part of it in which they hold. Intervals are intersected with them, so that a
ReLU split at zero is linear there; what is lost of the constraint itself comes back with
multipliers :math:`\beta, \beta' \ge 0`, for on that part

.. math:: a z \ge a z - \beta^\top (z - c) - \beta'^\top (d - z).

Where no point satisfies the cuts every number is a bound; intervals that have crossed are put in
order, and the results mean nothing.
Source: Wang et al. 2021 (beta-CROWN), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from taut.bounds.interval import Intermediate
from taut.operators.forms import Bounds, Interval

Cuts = Mapping[int, Bounds]
"""Constraints by the index of the node they are about, ``(B, *node shape)`` each; -inf and +inf
where a neuron has none."""


def cut(inter: Intermediate, cuts: Cuts) -> Intermediate:
    """Return the bounds of the part of the region in which ``cuts`` hold too.

    Bounds of the nodes behind are propagated anew. Shapes are those of ``inter``; cuts that are
    there already stay.
    """
    intervals, refined = list(inter.intervals), dict(inter.refined)
    together = dict(inter.cuts)
    stale = set[int]()
    for node in inter.net.nodes:
        index = node.index
        if any(source in stale for source in node.inputs):
            assert node.operator is not None
            sources = [found for i in node.inputs if (found := intervals[i]) is not None]
            fresh = node.operator.interval(*sources).bounds
            known = inter.interval(index).bounds.intersect(fresh)
            intervals[index] = Interval.between(*_ordered(known))
            if index in refined:
                refined[index] = Bounds(*_ordered(refined[index].intersect(fresh)))
            stale.add(index)
        if index in cuts:
            before = together.get(index)
            together[index] = cuts[index] if before is None else before.intersect(cuts[index])
            best = refined.get(index)
            best = intervals_of(intervals, index) if best is None else best
            refined[index] = Bounds(*_ordered(best.intersect(cuts[index])))
            intervals[index] = Interval.between(refined[index].lower, refined[index].upper)
            stale.add(index)
    return replace(inter, intervals=tuple(intervals), refined=refined, cuts=together)


def intervals_of(intervals: list[Interval | None], index: int) -> Bounds:
    """Return the bounds of a node whose interval was kept."""
    found = intervals[index]
    if found is None:
        raise ValueError(f"the interval of node {index} was not kept")
    return found.bounds


def _ordered(bounds: Bounds) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.minimum(bounds.lower, bounds.upper), torch.maximum(bounds.lower, bounds.upper)
