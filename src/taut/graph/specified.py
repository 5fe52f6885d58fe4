"""A network with a property behind it, so that every bounding method bounds the property's rows."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from taut.errors import PropertyError
from taut.graph.network import Network, Node
from taut.operators.affine import Linear
from taut.operators.base import Operator, Shape
from taut.operators.maximum import Maximum
from taut.operators.shape import Reshape
from taut.property.specification import Specification


def specified(net: Network, specification: Specification) -> Network:
    r"""Return the network followed by one linear layer that holds a specification.

    .. math:: z' = (0,\ b_1 - a_1 z,\ \dots,\ b_R - a_R z)

    So the margins of "class" 0 are the rows: ``method.margins(specified(net, s), region, y)``
    with labels 0 gives lower bounds of :math:`a_r z - b_r` in the columns 1 to R, merged with
    the network's last layers as margins ever are. ``s.proved(margins[:, 1:])`` tells where the
    property is proved.

    In a network of float32 right-hand sides are rounded up. Coefficients that float32 does not
    hold are rounded to the nearest; like all of float32's rounding that is what a borderline
    bound is computed again in float64 for.

    Raises
    ------
    PropertyError
        When the specification is about another number of outputs.

    """
    output = net.output
    if output.shape != (specification.outputs,):
        raise PropertyError(
            f"the property is about {specification.outputs} outputs, and the network's outputs "
            f"have shape {output.shape}"
        )
    like = _weights(net)
    weight = torch.cat([torch.zeros_like(specification.rows[:1]), -specification.rows])
    offsets = torch.cat([torch.zeros_like(specification.offsets[:1]), specification.offsets])
    operator = Linear(weight.to(like), _up(offsets, like))
    index = len(net.nodes)
    shape = (len(specification.rows) + 1,)
    return Network((*net.nodes, Node(index, "specification", operator, (output.index,), shape)))


def grouped(net: Network, specification: Specification) -> Network:
    r"""Return the network followed by the largest row of each group of a specification.

    .. math:: z' = (0,\ -\max_{r \in 1} (a_r z - b_r),\ \dots,\ -\max_{r \in G} (a_r z - b_r))

    So the property is one of margins of "class" 0, whatever its groups: it is proved where all
    of them are positive. From below a maximum is bounded by the row whose own lower bound is
    largest, which is what :meth:`Specification.by_group` makes of the rows' bounds.

    Raises
    ------
    PropertyError
        When the specification is about another number of outputs.

    """
    if specification.single:
        return specified(net, specification)
    by_row = specified(net, specification)
    counts = specification.groups.bincount()
    first, places = counts.cumsum(0) - counts, torch.arange(int(counts.max()))
    # A shorter group repeats its first row.
    chosen = first[:, None] + places.where(places < counts[:, None], 0)
    last = by_row.output.operator
    assert isinstance(last, Linear)
    assert last.bias is not None
    rows = chosen.flatten().to(last.weight.device) + 1
    operators: tuple[tuple[Operator, Shape], ...] = (
        (Linear(-last.weight[rows], -last.bias[rows]), (len(rows),)),
        (Reshape(tuple(chosen.shape)), tuple(chosen.shape)),
        (Maximum(axis=1), (specification.count,)),
        (_negative(specification.count, last.weight), (specification.count + 1,)),
    )
    nodes, names = list(net.nodes), ("rows", "groups", "largest", "specification")
    for name, (operator, shape) in zip(names, operators, strict=True):
        nodes.append(Node(len(nodes), name, operator, (len(nodes) - 1,), shape))
    return Network(tuple(nodes))


def _negative(count: int, like: Tensor) -> Linear:
    """Return the layer to 0 and the negative of every element."""
    eye = torch.eye(count, dtype=like.dtype, device=like.device)
    return Linear(torch.cat([torch.zeros_like(eye[:1]), -eye]), None)


def _up(value: Tensor, like: Tensor) -> Tensor:
    """Round float64 up to the type of ``like``."""
    nearest = value.to(like)
    above = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return nearest.where(nearest.double() >= value.to(like.device), above)


def _weights(net: Network) -> Tensor:
    """Return a floating-point tensor of the operators, for its type and device."""
    for node in net.nodes:
        operator: Any = node.operator
        for field in fields(operator) if is_dataclass(operator) else ():
            value = getattr(operator, field.name)
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
    return torch.zeros(0)
