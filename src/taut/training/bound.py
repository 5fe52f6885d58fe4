"""Second axis of the training grid: how the margins over an input set are bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from taut.bounds import Intermediate, backward, interval
from taut.errors import ConfigError
from taut.graph import Network
from taut.region import Box
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress

NEGLIGIBLE_BETA = 1e-5
"""The CROWN pass is skipped where its weight is smaller."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """A batch's robust loss over one input set, and what it was computed from.

    Parameters
    ----------
    losses
        Upper bounds of the cross-entropy on the set, one per image, ``(B,)``.
    margins
        Lower bounds of the margins ``(B, K)``, +inf at the true class.
    intermediate
        Interval bounds of every layer on this very set, for regularisers.

    """

    losses: Tensor
    margins: Tensor
    intermediate: Intermediate


class Bound(Protocol):
    """A rule that bounds the margins over a box."""

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Names of the bounding methods that networks trained with this bound need."""
        ...

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound the loss of labels ``y`` on ``box``, with gradients to the parameters."""
        ...


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


def share(name: str, value: float) -> float:
    """Return ``value``, or raise :class:`ConfigError` when it is no number in [0, 1]."""
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ConfigError(f"{name} must lie in [0, 1]; got {value:g}")
    return value


BOUNDS: dict[str, type[Bound]] = {"ibp": IBP, "crown-ibp": CrownIBP}
"""Bounds by the name a recipe calls them."""
