"""CROWN-IBP: rows pulled back over interval bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from taut.bounds import backward, interval
from taut.graph import Network
from taut.region import Box
from taut.training.bound.base import Bounded, share
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress

NEGLIGIBLE_BETA = 1e-5
"""The CROWN pass is skipped where its weight is smaller."""


@dataclass(frozen=True)
class CrownIBP:
    r"""CROWN-IBP: a backward pass over the interval bounds of one IBP pass, mixed with IBP.

    .. math:: l = (1-\beta)\, l_\text{IBP} + \beta\, l_\text{CROWN-IBP}, \qquad
              \beta = \beta_0 + (\beta_1 - \beta_0)\, \varepsilon/\varepsilon_{\max}

    Both are sound, so is their mix. Gradients flow through the interval bounds that place the
    lines. Below a weight of 1e-5 the backward pass is skipped.

    Parameters
    ----------
    beta_start, beta_end
        Weight of CROWN-IBP at eps 0 and at full eps, in [0, 1]. With ``beta_end = 0`` the
        network ends up verifiable by IBP; else it has to be verified with CROWN-IBP.
    lines
        Bounding lines of unstable neurons: ``adaptive`` (the published choice for training),
        ``tight`` or ``constant``.

    Raises
    ------
    ConfigError
        When a weight leaves [0, 1].

    References
    ----------
    Zhang et al., *Towards stable and efficient training of verifiably robust neural networks*
    (2020), Eq. 10 and Sec. 3.2.

    """

    beta_start: float = 1.0
    beta_end: float = 0.0
    lines: Literal["adaptive", "tight", "constant"] = "adaptive"

    def __post_init__(self) -> None:
        for name in ("beta_start", "beta_end"):
            share(f"method.{name}", getattr(self, name))

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP, and CROWN-IBP where it still has weight at full eps."""
        return ("ibp", "crown-ibp") if self.beta_end >= NEGLIGIBLE_BETA else ("ibp",)

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by one interval pass and, where it has weight, one backward pass."""
        beta = progress.between(self.beta_start, self.beta_end)
        intermediate = interval.propagate(network, box)
        if beta < NEGLIGIBLE_BETA:
            margins = interval.margins(network, intermediate, y)
        else:
            margins = backward.margins(network, intermediate, y, self.lines)
            if beta < 1.0:  # with beta = 1 the true column would be 0 * inf
                plain = interval.margins(network, intermediate, y)
                margins = (1.0 - beta) * plain + beta * margins
        return Bounded(robust_cross_entropy(margins, y), margins, intermediate)
