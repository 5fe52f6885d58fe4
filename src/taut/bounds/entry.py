"""Where linear bounds that are carried forward begin: at the pixels, or at their cells."""

from __future__ import annotations

from dataclasses import replace

from taut.graph.network import Network
from taut.operators.cells import Steps
from taut.operators.forms import Bounds
from taut.operators.shape import Identity
from taut.region import Box, Region


def behind_cells(net: Network, region: Region) -> tuple[Network, Region]:
    r"""Return a network that takes the values of cells, and the box of all that can be reached.

    .. math:: \big[v_{k(l)},\ v_{k(u)}\big]

    for the ends l and u of the region's box. The lines of steps are constant, so that linear
    functions of the pixels are lost behind them, and linear bounds carried from there would be
    intervals; functions of what the cells emit are not lost. A form takes its minimum over that
    box at a corner, which is a combination of reachable cells: over a box of pixels nothing is
    lost. Nodes keep their places.

    Where anything but one staircase reads the pixels, network and region are returned as given.
    """
    readers = [node for node in net.nodes if 0 in node.inputs]
    if len(readers) != 1 or not isinstance(readers[0].operator, Steps):
        return net, region
    (steps,) = readers
    assert isinstance(steps.operator, Steps)
    ends = steps.operator.image(Bounds(region.box.lower, region.box.upper))
    nodes = list(net.nodes)
    nodes[steps.index] = replace(steps, operator=Identity())
    return Network(tuple(nodes)), Box(ends.lower, ends.upper)
