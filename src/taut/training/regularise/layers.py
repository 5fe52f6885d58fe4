"""What the terms over layers read: each activation's input bounds, and means over the batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from taut.bounds import Intermediate
from taut.operators.affine import Conv2d, Linear
from taut.operators.base import Activation
from taut.operators.cells import Beside
from taut.operators.convtranspose import ConvTranspose2d
from taut.operators.forms import Interval
from taut.operators.shape import Reshape

Average = Callable[[Tensor], Tensor]
"""Averages a tensor without gradient over the processes of a run."""


def alone(value: Tensor) -> Tensor:
    """Return the average over one process."""
    return value


def activation_inputs(known: Intermediate) -> list[Interval]:
    """Return the interval of every activation's input, in topological order.

    Activations by elements only: a maximum over windows has no active and inactive state. The
    cells of a grid have none either, and are part of the input.
    """
    found = []
    for node in known.net.nodes:
        operator = node.operator
        if not isinstance(operator, Activation) or operator.jumps:
            continue
        if operator.axis is None and len(node.inputs) == 1:
            index = node.inputs[0]
            better = known.refined.get(index)
            found.append(
                known.interval(index)
                if better is None
                else Interval.between(better.lower, better.upper)
            )
    return found


def entry(known: Intermediate) -> Interval:
    """Return the interval of what the first layer with weights reads: the box, normalised.

    A normalisation in the model widens the box by 1 / std, of which training can change
    nothing. Measured from behind it, growth is what the layers with weights add, and it is the
    same whether images are normalised in the model or, as in published codes, before it. Of both
    ends of a cell it is the interval of one, as the two move together.
    """
    nodes = known.net.nodes
    for node in nodes:
        if isinstance(node.operator, Linear | Conv2d | ConvTranspose2d):
            index = node.inputs[0]
            before = nodes[index]
            if isinstance(before.operator, Reshape):
                before = nodes[before.inputs[0]]
            beside = isinstance(before.operator, Beside)
            return known.interval(before.inputs[0] if beside else index)
    return known.interval(0)


def shared(means: Tensor, average: Average) -> Tensor:
    """Return means over this process's images as means over the whole batch.

    The value is that of all processes, the gradient this process's part of it; averaging the
    gradients over processes then gives the gradient of the whole.
    """
    mine = means.detach()
    return means + (average(mine) - mine)
