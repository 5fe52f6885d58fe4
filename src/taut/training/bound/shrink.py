"""Intervals that ReLUs make smaller than they are: a proxy of training, and no bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from taut.errors import ConfigError
from taut.graph import Network
from taut.operators.forms import Interval
from taut.operators.relu import ReLU


@dataclass(frozen=True)
class _ShrunkReLU(ReLU):
    r"""ReLU, whose image of an interval with zero inside is :math:`[0, f u]` instead of [0, u]."""

    factor: float = 1.0

    def interval(self, *inputs: Interval) -> Interval:
        bent = inputs[0].bounds.unstable
        found = super().interval(*inputs)
        scale = torch.ones_like(found.center).masked_fill(bent, self.factor)
        return Interval(found.center * scale, found.radius * scale)

    def interval_in_place(self, z: Interval) -> Interval:
        return self.interval(z)


def check_factor(factor: float) -> None:
    """Raise :class:`ConfigError` when ``factor`` is no number in (0, 1]."""
    if not 0.0 < factor <= 1.0:
        raise ConfigError(f"method.relu_shrinkage must lie in (0, 1]; got {factor}")


def shrunk(network: Network, factor: float) -> Network:
    """Return the network with intervals that shrink at ReLUs; itself with a factor of 1.

    Points and rows pass as ever; only intervals are smaller, so they enclose no image any more.

    Raises
    ------
    ConfigError
        When the factor is below 1 and the network has no ReLU, where it would do nothing.

    """
    if factor == 1.0:
        return network
    nodes = tuple(
        replace(node, operator=_ShrunkReLU(factor)) if type(node.operator) is ReLU else node
        for node in network.nodes
    )
    if all(new is old for new, old in zip(nodes, network.nodes, strict=True)):
        raise ConfigError(
            "method.relu_shrinkage is below 1, but the network has no ReLU it could act on; "
            "leave it at 1"
        )
    return Network(nodes)
