"""Bounds of the activations' inputs by substitution: the "layers before" of CROWN."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.interval import Intermediate
from taut.graph.network import Network
from taut.operators.base import Activation
from taut.operators.forms import Bounds

BUDGET = 256 * 2**20
"""Bytes that the coefficients of one chunk of rows may take, by default."""

_LIVE_COPIES = 4  # a form, its image, its negative part and one temporary


def refine(inter: Intermediate, lines: tuple[str, ...], budget: int = BUDGET) -> Intermediate:
    """Bound every activation's input by full substitution, in topological order.

    Only neurons whose activation still bends on the bounds known so far are bounded
    again (the lines of the others are exact already), and a new bound counts only
    where it is better. Neurons that only affine nodes separate from the input are
    left alone: interval bounds are exact there. With several families in ``lines``
    the best of them is kept per neuron.

    Cost: one substitution for each bending neuron. ``budget`` bounds the bytes of
    the coefficients alive at once; rows are chunked to stay within it.
    """
    net = inter.net
    exact = _affine_of_input(net)
    for node in net.nodes:
        if not isinstance(node.operator, Activation) or node.inputs[0] in exact:
            continue
        source = node.inputs[0]
        known = inter.at(source)
        bends = node.operator.bends(known).flatten(1)
        pairs = bends.nonzero()
        if len(pairs) == 0:
            continue
        better = _bound_pairs(net, source, pairs, inter, lines, budget)
        merged = known.intersect(_scatter(known, pairs, better))
        inter = replace(inter, refined={**inter.refined, source: merged})
    return inter


def _affine_of_input(net: Network) -> set[int]:
    """Return the nodes that no activation separates from the input."""
    found = {0}
    for node in net.nodes[1:]:
        if node.is_affine and all(i in found for i in node.inputs):
            found.add(node.index)
    return found


def _bound_pairs(
    net: Network,
    source: int,
    pairs: Tensor,
    inter: Intermediate,
    lines: tuple[str, ...],
    budget: int,
) -> Bounds:
    """Bound single neurons; ``pairs (P, 2)`` names image and neuron; both ends ``(P,)``."""
    like = inter.like
    widest = max(_size(node.shape) for node in net.nodes[: source + 1])
    chunk = max(1, budget // (2 * widest * like.element_size() * _LIVE_COPIES))
    lows, highs = [], []
    for part in pairs.split(chunk):
        samples, neurons = part[:, 0], part[:, 1]
        rows = like.new_zeros(len(part), 2, _size(net.nodes[source].shape))
        each = torch.arange(len(part), device=rows.device)
        rows[each, 0, neurons] = 1.0
        rows[each, 1, neurons] = -1.0
        rows = rows.unflatten(2, net.nodes[source].shape)
        found = torch.stack(
            [
                backward.lower(net, source, rows, inter, lines=kind, samples=samples)
                for kind in lines
            ]
        ).amax(0)
        lows.append(found[:, 0])
        highs.append(-found[:, 1])
    return Bounds(torch.cat(lows), torch.cat(highs))


def _scatter(known: Bounds, pairs: Tensor, better: Bounds) -> Bounds:
    shape = known.lower.shape
    index = (pairs[:, 0], pairs[:, 1])
    return Bounds(
        known.lower.flatten(1).index_put(index, better.lower).view(shape),
        known.upper.flatten(1).index_put(index, better.upper).view(shape),
    )


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
