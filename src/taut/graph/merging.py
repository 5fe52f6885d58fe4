"""Layers that read both ends of cells, merged with them: the two ends move together."""

from __future__ import annotations

from dataclasses import replace

import torch

from taut.graph.network import Node
from taut.operators.affine import Conv2d, Linear
from taut.operators.base import Operator
from taut.operators.cells import Beside, Ends
from taut.operators.shape import Reshape


def merge_ends(nodes: list[Node]) -> list[Node]:
    r"""Return the nodes with every first layer over cell ends as one over ends and widths.

    .. math:: W_u (x + d) + W_l x + b = (W_u + W_l)\,x + W_u d + b

    exactly, also at the zero padding of a convolution, since the constant d stays a channel
    beside x. Interval propagation over both ends apart would have the radius
    :math:`(|W_u| + |W_l|) r` instead of :math:`|W_u + W_l| r`. All readers of the ends have to be
    linear layers (behind a flattening or not) or ungrouped convolutions, else the nodes stay.
    """
    readers: dict[int, list[int]] = {}
    for node in nodes:
        for source in node.inputs:
            readers.setdefault(source, []).append(node.index)
    found = list(nodes)
    for node in nodes:
        if not isinstance(node.operator, Ends):
            continue
        layers = _layers(nodes, readers, node)
        if not layers:
            continue
        found[node.index] = replace(node, operator=Beside(node.operator.width))
        for layer in layers:
            found[layer.index] = replace(layer, operator=_merged(layer.operator))
    return found


def _layers(nodes: list[Node], readers: dict[int, list[int]], node: Node) -> list[Node] | None:
    """Return the layers that weigh the channels of a node; None where something else reads it."""
    if node.index == len(nodes) - 1:  # it is the output, and read by whoever calls the network
        return None
    found: list[Node] = []
    for index in readers.get(node.index, []):
        reader = nodes[index]
        operator = reader.operator
        flat = len(node.shape) == 1
        if isinstance(operator, Reshape) and len(reader.shape) == 1 and not operator.pixel_major:
            behind = _layers(nodes, readers, reader)
            if behind is None:
                return None
            found += behind
        elif (isinstance(operator, Linear) and flat) or (
            isinstance(operator, Conv2d) and operator.groups == 1
        ):
            found.append(reader)
        else:
            return None
    return found


def _merged(layer: Operator | None) -> Operator:
    """Return a layer over upper and lower ends as one over lower ends and widths."""
    assert isinstance(layer, Linear | Conv2d)
    upper, lower = layer.weight.chunk(2, 1)
    return replace(layer, weight=torch.cat([upper + lower, upper], 1))
