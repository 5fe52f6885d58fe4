"""Interval bound propagation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.bounds import interval
from taut.graph import Network
from taut.region import Box
from taut.training.bound.base import Bounded
from taut.training.bound.shrink import check_factor, shrunk
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress


@dataclass(frozen=True)
class IBP:
    r"""Interval bound propagation, last layer merged with the margins.

    Parameters
    ----------
    relu_shrinkage
        Factor f in (0, 1]: a ReLU whose interval has zero inside gives :math:`[0, f u]`. Below 1
        the result is no bound any more (``Bounded.sound`` says so), but boxes grow more slowly;
        a network is certified without it. 1 is IBP itself. 0.8 is published for CIFAR-10 at
        2/255, there as 1 - rho / 2 with rho = 0.4.

    Raises
    ------
    ConfigError
        For a factor outside (0, 1], or below 1 with a network that has no ReLU.

    References
    ----------
    Gowal et al., *On the effectiveness of interval bound propagation for training verifiably
    robust models* (2018), Eq. 6 to 9 and the elision of the last layer; the published code of
    Müller et al., *Certified training: small boxes are all you need* (2023), for the factor.

    """

    relu_shrinkage: float = 1.0

    def __post_init__(self) -> None:
        check_factor(self.relu_shrinkage)

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP itself."""
        return ("ibp",)

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by one interval pass."""
        network = shrunk(network, self.relu_shrinkage)
        known = interval.propagate(network, box)
        margins = interval.margins(network, known, y)
        sound = self.relu_shrinkage == 1.0
        return Bounded(robust_cross_entropy(margins, y), margins, known, sound)
