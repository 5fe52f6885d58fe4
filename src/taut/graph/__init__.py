"""From an ``nn.Module`` to a graph of operators with live parameters."""

from taut.graph.graph import Graph, Statistics
from taut.graph.network import Network, Node
from taut.graph.trace import trace

__all__ = ["Graph", "Network", "Node", "Statistics", "trace"]
