"""The ``[regularise]`` section of a recipe: terms that are added to the loss of any method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from taut.bounds import Intermediate, interval
from taut.errors import ConfigError
from taut.region import Box
from taut.training.population import untouched_statistics
from taut.training.progress import NEGLIGIBLE_EPS, Losses, Progress
from taut.training.regularise.balance import balance
from taut.training.regularise.l1 import On, l1
from taut.training.regularise.tightness import tightness


@dataclass(frozen=True)
class Regularisers:
    r"""Weights of the terms, 0 for none.

    .. math:: L + \lambda_1 \sum |\theta|
              + \lambda_0 (1 - \varepsilon/\varepsilon_{\max}) (L_\text{tight} + L_\text{relu})

    Parameters
    ----------
    l1
        Weight :math:`\lambda_1` of the l_1 norm.
    l1_on
        Whose norm: ``weights`` of convolutions and linear layers, or ``all`` parameters.
    shi
        Weight :math:`\lambda_0` of tightness and balance while eps grows. They are computed from
        the bounds of the very step; where it bounded nothing or its eps is 0, from one interval
        pass over the ball of eps, at least 1e-6. Off from full eps on, and in runs without eps.
    tolerance
        :math:`\tau` of both, in (0, 1].

    Raises
    ------
    ConfigError
        When a weight is negative or not finite, or ``tolerance`` leaves (0, 1].

    References
    ----------
    Shi et al., *Fast certified robust training with short warmup* (2021), Sec. 3.3.

    """

    l1: float = 0.0
    l1_on: On = "weights"
    shi: float = 0.0
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        for name in ("l1", "shi"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ConfigError(f"regularise.{name} must be a finite number >= 0; got {value}")
        if self.l1_on not in ("weights", "all"):
            raise ConfigError(f"regularise.l1_on must be weights or all; got {self.l1_on!r}")
        if not 0.0 < self.tolerance <= 1.0:
            raise ConfigError(f"regularise.tolerance must lie in (0, 1]; got {self.tolerance:g}")

    def terms(self, losses: Losses, model: nn.Module, progress: Progress) -> dict[str, Tensor]:
        """Return the weighted terms that are on, by name; scalars with gradients.

        Parameters
        ----------
        losses
            The method's answer: its batch, network and bounds of this very step.
        model
            The module that is trained.
        progress
            Where the run stands.

        Raises
        ------
        ConfigError
            When tightness and balance are on and the method tells nothing of its batch.

        """
        found: dict[str, Tensor] = {}
        if self.l1 > 0:
            found["l1"] = self.l1 * l1(model, self.l1_on)
        weight = self.shi * (1.0 - progress.fraction)
        if weight > 0 and progress.eps_max > 0:
            known = _bounds(losses, model, progress)
            found["tightness"] = weight * tightness(known, self.tolerance, progress.average)
            found["balance"] = weight * balance(known, self.tolerance, progress.average)
        return found


def _bounds(losses: Losses, model: nn.Module, progress: Progress) -> Intermediate:
    """Return this step's interval bounds; those of a tiny ball where eps is about zero."""
    if losses.bounded and progress.eps >= NEGLIGIBLE_EPS:
        return losses.bounded[-1].intermediate
    if losses.batch is None:
        raise ConfigError(
            "regularise.shi needs the batch of the step, which this method's Losses leave out; "
            "set Losses.batch, or regularise.shi = 0"
        )
    with untouched_statistics(model):  # the method has tracked this batch already
        network = losses.batch.network
    box = Box.around(losses.batch.x, max(progress.eps, NEGLIGIBLE_EPS))
    return interval.propagate(network, box)
