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
from taut.bounds.refine import bounded, noted, renewed
from taut.operators.forms import Bounds

Cuts = Mapping[int, Bounds]
"""Constraints by the index of the node they are about, ``(B, *node shape)`` each; -inf and +inf
where a neuron has none."""


def cut(inter: Intermediate, cuts: Cuts) -> Intermediate:
    """Return the bounds of the part of the region in which ``cuts`` hold too.

    Bounds of the nodes behind are propagated anew. Shapes are those of ``inter``; cuts that are
    there already stay.
    """
    stale = set[int]()
    for node in inter.net.nodes:
        index = node.index
        if any(source in stale for source in node.inputs):
            inter = in_order(renewed(inter, node), index)
            stale.add(index)
        if index in cuts:
            before = inter.cuts.get(index)
            both = cuts[index] if before is None else before.intersect(cuts[index])
            best = inter.at(index).intersect(cuts[index])
            inter = replace(bounded(inter, index, best), cuts={**inter.cuts, index: both})
            inter = in_order(inter, index)
            stale.add(index)
    return inter


def in_order(inter: Intermediate, index: int) -> Intermediate:
    """Return the intermediate bounds with ends of a node that have crossed put in order."""
    taken = noted(inter, index, ordered(inter.interval(index).bounds))
    if index not in inter.refined:
        return taken
    return replace(taken, refined={**inter.refined, index: ordered(inter.at(index))})


def ordered(bounds: Bounds) -> Bounds:
    """Return bounds whose ends have crossed, where there is no point, in order."""
    lower, upper = bounds.lower, bounds.upper
    return Bounds(torch.minimum(lower, upper), torch.maximum(lower, upper))
