"""Layers that read both ends of cells, merged with them: the two ends move together."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from taut.graph.network import Node
from taut.operators.affine import Conv2d, Linear, Scale
from taut.operators.base import Shape
from taut.operators.cells import Ends
from taut.operators.shape import Identity, Reshape


def merge_ends(nodes: list[Node]) -> list[Node]:
    r"""Return the nodes with every first layer over cell ends as one over their lower ends.

    .. math:: W_u (x + d) + W_l x + b = (W_u + W_l)\,x + (b + W_u d)

    exactly, where the ends have one reader, a linear layer (behind a flattening or not) or an
    ungrouped convolution; at its zero padding the constant differs from pixel to pixel. Interval
    propagation over both ends apart would have the radius :math:`(|W_u| + |W_l|) r` instead of
    :math:`|W_u + W_l| r`. Other readers are left alone.
    """
    readers: dict[int, list[int]] = {}
    for node in nodes:
        for source in node.inputs:
            readers.setdefault(source, []).append(node.index)
    found = list(nodes)
    for node in nodes:
        if isinstance(node.operator, Ends):
            _merge(found, node, node.operator, readers)
    return found


def _merge(found: list[Node], node: Node, ends: Ends, readers: dict[int, list[int]]) -> None:
    """Rewrite the nodes from the ends to the layer that reads them, where there is one."""
    flat, reader = None, _only(found, readers, node)
    if reader is not None and isinstance(reader.operator, Reshape):
        flat, reader = reader, _only(found, readers, reader)
    half: Shape = (node.shape[0] // 2, *node.shape[1:])
    if reader is None:
        return
    layer = reader.operator
    if isinstance(layer, Linear) and len(reader.shape) == 1:
        upper, lower = layer.weight.chunk(2, 1)
        shift = upper @ ends.width.to(upper).expand(half).flatten()
        merged = Linear(upper + lower, shift if layer.bias is None else layer.bias + shift)
        found[node.index] = replace(node, operator=Identity(), shape=half)
        if flat is not None:
            size = (lower.shape[1],)
            found[flat.index] = replace(flat, operator=Reshape(size), shape=size)
        found[reader.index] = replace(reader, operator=merged)
    elif isinstance(layer, Conv2d) and layer.groups == 1 and flat is None:
        convolution, constant = _merged_convolution(layer, ends, half)
        found[node.index] = replace(node, operator=convolution, shape=reader.shape)
        found[reader.index] = replace(reader, operator=Scale(None, constant))


def _only(nodes: list[Node], readers: dict[int, list[int]], node: Node) -> Node | None:
    """Return the one reader of a node, None where there are several or none."""
    found = readers.get(node.index, [])
    return nodes[found[0]] if len(found) == 1 else None


def _merged_convolution(layer: Conv2d, ends: Ends, half: Shape) -> tuple[Conv2d, Tensor]:
    """Return the convolution of the lower ends, and the constant ``(out, H, W)`` behind it."""
    upper, lower = layer.weight.chunk(2, 1)
    moved = replace(layer, weight=upper.contiguous())
    shift = moved.forward(ends.width.to(upper).expand(1, *half))[0]
    if tuple(layer.padding) == (0, 0):
        shift = shift[:, :1, :1]
    return replace(layer, weight=upper + lower, bias=None), shift
