"""Interval bound propagation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.bounds import interval
from taut.graph import Network
from taut.region import Box
from taut.training.bound.base import Bounded
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress


@dataclass(frozen=True)
class IBP:
    """Interval bound propagation, last layer merged with the margins.

    References
    ----------
    Gowal et al., *On the effectiveness of interval bound propagation for training verifiably
    robust models* (2018), Eq. 6 to 9 and the elision of the last layer.

    """

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP itself."""
        return ("ibp",)

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by one interval pass."""
        intermediate = interval.propagate(network, box)
        margins = interval.margins(network, intermediate, y)
        return Bounded(robust_cross_entropy(margins, y), margins, intermediate)
