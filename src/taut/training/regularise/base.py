"""The ``[regularise]`` section of a recipe: terms that are added to the loss of any method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from taut.errors import ConfigError
from taut.training.progress import Losses, Progress


@dataclass(frozen=True)
class Regularisers:
    """Weights of the terms, 0 for none.

    Raises
    ------
    ConfigError
        When a weight is negative or not finite.

    """

    l1: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.l1 < float("inf"):
            raise ConfigError(f"regularise.l1 must be a finite number >= 0; got {self.l1}")

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

        """
        return {}
