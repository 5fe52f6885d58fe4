"""Bounds of the activations' inputs by substitution: the "layers before" of CROWN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.budget import allowance
from taut.bounds.interval import Intermediate
from taut.bounds.rows import bound_pairs
from taut.graph.network import Node
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Interval

Bounder = Callable[[Intermediate, int, Tensor], Bounds]
"""Bounds neurons of a node: called with what is known, the node, and pairs ``(P, 2)`` of
image and neuron; returns both ends ``(P,)``."""


def refine(
    inter: Intermediate,
    lines: tuple[str, ...],
    budget: int | None = None,
    *,
    everywhere: bool = False,
) -> Intermediate:
    """Bound every activation's input by full substitution, in topological order.

    See :func:`improve`; with several families in ``lines`` each is tried on what still
    bends after the former.

    Cost: one substitution for each bending neuron. ``budget`` bounds the bytes of
    the coefficients alive at once (default: a quarter of what is free); rows are chunked
    to stay within it.
    """
    size = allowance(budget, inter.like.device)

    def by(kind: str) -> Bounder:
        return lambda known, source, pairs: bound_pairs(
            known, source, pairs, backward.family(known, kind), size
        )

    return improve(inter, [by(kind) for kind in lines], everywhere=everywhere)


def improve(
    inter: Intermediate, bounders: list[Bounder], *, everywhere: bool = False
) -> Intermediate:
    """Bound every activation's input again, in topological order.

    Only neurons whose activation still bends on the bounds known so far are bounded
    (the lines of the others are exact already), and a new bound counts only where it is
    better; intervals of the nodes behind are then propagated anew, so that fewer neurons
    bend there. Neurons whose intervals are exact, those of the first layer, are left alone.
    ``everywhere`` bounds every neuron and takes what it finds, as published, even where
    intervals were better.
    """
    net = inter.net
    exact = net.exact_over_boxes() if inter.region.exact_box else net.affine_of_input()
    bent, stale = net.bent(), set[int]()
    for node in net.nodes[1:]:
        if any(i in stale for i in node.inputs):
            inter = renewed(inter, node)
            stale.add(node.index)
        if node.index not in bent or node.index in exact:
            continue
        for bounder in bounders:
            known = inter.at(node.index)
            bends = [reader.bends(known).flatten(1) for reader in bent[node.index]]
            pairs = torch.stack(bends).any(0)
            pairs = (torch.ones_like(pairs) if everywhere else pairs).nonzero()
            if len(pairs) == 0:
                break
            better = scatter(known, pairs, bounder(inter, node.index, pairs))
            if not everywhere:
                better = known.intersect(better)
                inter = noted(inter, node.index, better)
                stale.add(node.index)
            inter = replace(inter, refined={**inter.refined, node.index: better})
    return inter


def renewed(inter: Intermediate, node: Node) -> Intermediate:
    """Return the intermediate bounds with those of a node intersected with what its inputs give."""
    operator = node.operator
    assert operator is not None
    if isinstance(operator, Activation) and operator.jumps:  # midpoints would round the ends
        fresh = operator.image(inter.at(node.inputs[0]))
    else:
        fresh = operator.interval(*(inter.interval(i) for i in node.inputs)).bounds
    known = inter.interval(node.index).bounds
    better = noted(inter, node.index, known.intersect(fresh))
    if node.index not in inter.refined:
        return better
    refined = inter.at(node.index).intersect(fresh)
    return replace(better, refined={**inter.refined, node.index: refined})


def bounded(inter: Intermediate, index: int, bounds: Bounds) -> Intermediate:
    """Return the intermediate bounds with others of one node, its interval's too."""
    return replace(noted(inter, index, bounds), refined={**inter.refined, index: bounds})


def noted(inter: Intermediate, index: int, bounds: Bounds) -> Intermediate:
    """Return the intermediate bounds with another interval of one node."""
    intervals = list(inter.intervals)
    intervals[index] = Interval.between(bounds.lower, bounds.upper)
    return replace(inter, intervals=tuple(intervals))


def scatter(known: Bounds, pairs: Tensor, better: Bounds) -> Bounds:
    """Return ``known`` with the bounds of some neurons replaced; ``pairs`` names them."""
    shape = known.lower.shape
    index = (pairs[:, 0], pairs[:, 1])
    return Bounds(
        known.lower.flatten(1).index_put(index, better.lower).view(shape),
        known.upper.flatten(1).index_put(index, better.upper).view(shape),
    )
