"""CROWN-IBP: rows pulled back over interval bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from taut.bounds import Intermediate, backward, fused_cross_entropy, interval
from taut.graph import Network
from taut.region import Box
from taut.training.bound.base import Bounded
from taut.training.bound.blend import NEGLIGIBLE_BETA, Blend
from taut.training.progress import Progress


@dataclass(frozen=True)
class CrownIBP(Blend):
    r"""CROWN-IBP: a backward pass over the interval bounds of one IBP pass, mixed with IBP.

    .. math:: l = (1-\beta)\, l_\text{IBP} + \beta\, l_\text{CROWN-IBP}, \qquad
              \beta = \beta_0 + (\beta_1 - \beta_0)\, \varepsilon/\varepsilon_{\max}

    Both are sound, so is their mix. Gradients flow through the interval bounds that place the
    lines. Below a weight of 1e-5 the backward pass is skipped.

    With ``fused`` one row an image bounds the loss itself, whatever the number of classes,

    .. math:: L = \log\bigl(\beta\, e_\text{CROWN-IBP} + (1-\beta)\, e_\text{IBP}\bigr), \qquad
              e \ge \sum_j e^{z_j - z_y}

    (:func:`taut.bounds.fused_cross_entropy`). There are no margins by the backward pass then;
    those returned, for the rates of the log and for combinations that use margins, are IBP's.

    Parameters
    ----------
    beta_start, beta_end
        Weight of CROWN-IBP at eps 0 and at full eps, in [0, 1]. With ``beta_end = 0`` the
        network ends up verifiable by IBP; else it has to be verified with CROWN-IBP.
    lines
        Bounding lines of unstable neurons: ``adaptive`` (the published choice for training),
        ``tight`` or ``constant``.
    fused
        Bound the cross-entropy by one row instead of each margin by a row of its own.

    Raises
    ------
    ConfigError
        When a weight leaves [0, 1].

    References
    ----------
    Zhang et al., *Towards stable and efficient training of verifiably robust neural networks*
    (2020), Eq. 10 and Sec. 3.2; Xu et al., *Automatic perturbation analysis for scalable
    certified robustness and beyond* (2020), Sec. 3.3 (``fused``).

    """

    beta_end: float = 0.0
    lines: Literal["adaptive", "tight", "constant"] = "adaptive"
    fused: bool = False

    @property
    def dear(self) -> tuple[str, ...]:
        """CROWN-IBP."""
        return ("crown-ibp",)

    def margins(self, network: Network, box: Box, known: Intermediate, y: Tensor) -> Tensor:
        """Return margins by one backward pass over the intervals."""
        return backward.margins(network, known, y, self.lines)

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by one interval pass and, where it has weight, one backward pass."""
        beta = self.beta(progress)
        if not self.fused or beta < NEGLIGIBLE_BETA:
            return super().bounded(network, box, y, progress)
        known = interval.propagate(network, box)
        losses = fused_cross_entropy(network, known, y, self.lines, beta)
        return Bounded(losses, interval.margins(network, known, y), known)
