"""Lower and upper bounds of single neurons by substitution, in chunks that fit a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form, Window
from taut.graph.network import Node
from taut.operators.forms import Bounds, Lines

if TYPE_CHECKING:
    from taut.bounds.interval import Intermediate

_OVERHEAD = 1.4
"""Bytes a walk takes over those of its own tensors: copies that convolutions make."""

BRISK = 48 * 2**20
"""Bytes of a chunk beyond which a CPU becomes no faster, only the caches colder."""


def bound_pairs(
    inter: Intermediate,
    source: int,
    pairs: Tensor,
    relaxation: backward.Relaxation,
    budget: int,
) -> Bounds:
    """Bound single neurons of a node by substitution.

    ``pairs (P, 2)`` names image and neuron; both ends have shape ``(P,)``. ``budget`` is in
    bytes.
    """
    node = inter.net.nodes[source]
    step = chunk_size(inter, source, pairs, relaxation, budget)
    lows, highs = [], []
    for part in pairs.split(step):
        found = backward.lower(
            inter.net,
            source,
            unit_rows(node, part[:, 1], inter.like),
            inter,
            lines=relaxation,
            samples=part[:, 0],
        )
        lows.append(found[:, 0])
        highs.append(-found[:, 1])
    return Bounds(torch.cat(lows), torch.cat(highs))


def unit_rows(node: Node, neurons: Tensor, like: Tensor) -> Form:
    """Return rows ``e_i`` and ``-e_i`` for each neuron: ``(P, 2, *shape)``, images as windows."""
    count, each = len(neurons), torch.arange(len(neurons), device=neurons.device)
    if len(node.shape) != 3:
        rows = like.new_zeros(count, 2, torch.Size(node.shape).numel())
        rows[each, 0, neurons], rows[each, 1, neurons] = 1.0, -1.0
        return Form(rows.unflatten(2, node.shape))
    channels, height, width = node.shape
    channel, pixel = neurons // (height * width), neurons % (height * width)
    rows = like.new_zeros(count, 2, channels, 1, 1)
    rows[each, 0, channel], rows[each, 1, channel] = 1.0, -1.0
    top, left = pixel // width, pixel % width
    return Form(rows, Window(top, left, (0, height - 1), (0, width - 1)))


def chunk_size(
    inter: Intermediate,
    source: int,
    pairs: Tensor,
    relaxation: backward.Relaxation,
    budget: int,
    *,
    kept: bool = False,
) -> int:
    """Return how many pairs fit a budget of bytes, found by walking with one of them.

    ``kept`` counts all that a walk makes, as a gradient needs it, not what is alive at once.
    """
    meter = backward.Meter()
    node = inter.net.nodes[source]
    differentiable = torch.is_grad_enabled()

    def as_outside(node: Node, form: Form, samples: Tensor | None) -> Lines:
        # lines are made once and serve the walks to come, which may need their gradients
        with torch.set_grad_enabled(differentiable):
            return relaxation(node, form, samples)

    with torch.no_grad():
        backward.lower(
            inter.net,
            source,
            unit_rows(node, pairs[:1, 1], inter.like),
            inter,
            lines=as_outside,
            samples=pairs[:1, 0],
            meter=meter,
        )
    numbers = 2 * meter.total if kept else meter.peak
    size = _OVERHEAD * numbers * inter.like.element_size()
    if inter.like.device.type == "cpu":
        budget = min(budget, BRISK)
    return max(1, int(budget / max(1.0, size)))
