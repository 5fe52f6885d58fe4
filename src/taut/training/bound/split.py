"""Networks cut in two at a node that everything passes."""

from __future__ import annotations

from dataclasses import replace

from taut.errors import ConfigError
from taut.graph import Network
from taut.graph.network import Node
from taut.operators.base import Activation


def cut_node(network: Network, split: int) -> int:
    """Return the first node that separates ``split`` activations from all others.

    A node separates a network when every way from the input to the logits passes it.

    Parameters
    ----------
    network
        The network.
    split
        How many activations lie before the cut or at it, counted from the input; negative, how
        many lie behind it.

    Raises
    ------
    ConfigError
        When the network has fewer activations, or no node separates that many.

    """
    places = _cuts(network)
    total = sum(_counts(node) for node in network.nodes)
    wanted = split if split >= 0 else total + split
    if not 0 <= wanted <= total:
        raise ConfigError(
            f"method.split is {split}, but the network has {total} activations; "
            f"choose -{total} to {total}"
        )
    if wanted not in places:
        raise ConfigError(
            f"method.split is {split}, but no single node separates {wanted} activations from "
            f"the other {total - wanted}, as branches run past; choose one of "
            f"{', '.join(map(str, places))}"
        )
    return places[wanted]


def tail(network: Network, index: int) -> Network:
    """Return what follows node ``index``, which becomes the input; it has to separate."""
    nodes = network.nodes[index:]
    start = replace(nodes[0], index=0, operator=None, inputs=())
    rest = (
        replace(n, index=n.index - index, inputs=tuple(i - index for i in n.inputs))
        for n in nodes[1:]
    )
    return Network((start, *rest))


def _counts(node: Node) -> bool:
    """Whether a node is an activation; the cells of a grid, which make the input, are none."""
    return isinstance(node.operator, Activation) and not node.operator.jumps


def _cuts(network: Network) -> dict[int, int]:
    """Return the first separating node for each number of activations that has one."""
    found: dict[int, int] = {}
    last = list(range(len(network.nodes)))  # the last reader of each node
    for node in network.nodes:
        for source in node.inputs:
            last[source] = node.index
    count, reach = 0, 0
    for node in network.nodes:
        if reach <= node.index:  # nothing before reaches beyond
            found.setdefault(count + _counts(node), node.index)
        count += _counts(node)
        reach = max(reach, last[node.index])
    return found
