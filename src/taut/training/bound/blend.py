"""What every linear bound of training shares: its place beside IBP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from taut.bounds import Intermediate, interval
from taut.graph import Network
from taut.region import Box
from taut.training.bound.base import Bounded, share
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress

NEGLIGIBLE_BETA = 1e-5
"""The dearer bound is skipped where its weight is smaller."""


@dataclass(frozen=True)
class Blend(ABC):
    r"""A bound mixed with IBP's, by a weight tied to eps.

    .. math:: l = (1-\beta)\, l_\text{IBP} + \beta\, l_\text{dear}, \qquad
              \beta = \beta_0 + (\beta_1 - \beta_0)\, \varepsilon/\varepsilon_{\max}

    Both are sound, so is their mix. Below a weight of 1e-5 the dearer bound is skipped.

    Parameters
    ----------
    beta_start, beta_end
        Weight of the dearer bound at eps 0 and at full eps, in [0, 1]. With ``beta_end = 0`` the
        network ends up verifiable by IBP.

    Raises
    ------
    ConfigError
        When a weight leaves [0, 1].

    """

    beta_start: float = 1.0
    beta_end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta_start", "beta_end"):
            share(f"method.{name}", getattr(self, name))

    @property
    @abstractmethod
    def dear(self) -> tuple[str, ...]:
        """Names of the bounding methods that the dearer bound needs, the cheapest first."""

    @abstractmethod
    def margins(self, network: Network, box: Box, known: Intermediate, y: Tensor) -> Tensor:
        """Return the dearer margins ``(B, K)``; ``known`` are the intervals of ``box``."""

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP, and the dearer bound where it still has weight at full eps."""
        return ("ibp", *self.dear) if self.beta_end >= NEGLIGIBLE_BETA else ("ibp",)

    def beta(self, progress: Progress) -> float:
        """Return the weight of the dearer bound at this step."""
        return progress.between(self.beta_start, self.beta_end)

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by one interval pass and, where it has weight, the dearer bound."""
        beta = self.beta(progress)
        known = interval.propagate(network, box)
        if beta < NEGLIGIBLE_BETA:
            margins = interval.margins(network, known, y)
        else:
            margins = self.margins(network, box, known, y)
            if beta < 1.0:  # with beta = 1 the true column would be 0 * inf
                margins = (1.0 - beta) * interval.margins(network, known, y) + beta * margins
        return Bounded(robust_cross_entropy(margins, y), margins, known)
