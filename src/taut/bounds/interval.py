"""Interval bound propagation (IBP): one pass of midpoints and radii.

Source: Gowal et al. 2018; Mirman et al. 2018. Cost: two forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.bounds import backward
from taut.graph.network import Network
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Interval
from taut.property import margin_rows, pad_true_class
from taut.region import Box


@dataclass(frozen=True, eq=False)
class Intermediate:
    """Bounds of every node of a network over one region.

    ``intervals[i]`` holds node i in midpoint form. ``refined`` replaces them where a
    dearer method has bounded the input of an activation better.
    """

    net: Network
    intervals: tuple[Interval, ...]
    refined: dict[int, Bounds]

    def at(self, index: int) -> Bounds:
        """Return the best known bounds of a node, shape ``(B, *node shape)``."""
        found = self.refined.get(index)
        return self.intervals[index].bounds if found is None else found

    def activations(self) -> list[Bounds]:
        """Return the bounds of every activation's input, in topological order."""
        return [
            self.at(node.inputs[0])
            for node in self.net.nodes
            if isinstance(node.operator, Activation)
        ]


def propagate(net: Network, box: Box) -> Intermediate:
    r"""Bound every node over ``box``.

    .. math:: c' = W c + b, \quad r' = |W| r; \qquad l' = \sigma(l), \quad u' = \sigma(u)

    Gradients flow to the parameters of ``net`` (and to the box, where it asks for them).
    """
    intervals = [Interval.between(box.lower, box.upper)]
    for node in net.nodes[1:]:
        assert node.operator is not None
        intervals.append(node.operator.interval(*(intervals[i] for i in node.inputs)))
    return Intermediate(net, tuple(intervals), {})


def margins(net: Network, inter: Intermediate, y: Tensor) -> Tensor:
    r"""Return elided IBP margins ``(B, K)``: lower bounds of :math:`z_y - z_j`.

     The specification is merged with the affine layers after the last activations
    , whose output boxes are then concretised: never looser than
     :math:`\underline z_y - \overline z_j`. The true column is +inf.
    """
    rows = margin_rows(y, net.classes, inter.intervals[-1].center)
    lower = backward.lower(net, net.output.index, rows, inter, lines=None)
    return pad_true_class(lower, y)
