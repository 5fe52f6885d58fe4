"""The attack inside a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from taut.attacks import PGD
from taut.errors import ConfigError
from taut.region import Box
from taut.training.progress import Progress

if TYPE_CHECKING:  # regions use attacks
    from taut.training.region.base import Batch

Climbed = Literal["ce", "kl"]
"""What an attack in training climbs."""


@dataclass(frozen=True)
class TrainingAttack:
    """Projected gradient ascent, as training uses it.

    The network attacked is the one of evaluation mode (running statistics), its parameters
    without gradients. On the CPU the starts come from the images' seeds, else from the step's
    generator; the point returned is the iterate with the highest loss.

    Parameters
    ----------
    steps
        Gradient steps; one is FGSM with a random start.
    step
        Length of a step in half widths of the clipped ball (eps where it is not clipped); 0 means
        ``2.5 / steps``.
    milestones
        The length is divided by ten after each of these numbers of steps.
    restarts
        Runs per image, each from its own start.
    scale
        Radius of the attack over that of the step.
    loss
        What is climbed: ``ce``, the cross-entropy, or ``kl``, the divergence of the class
        probabilities from those of the image itself.
    spread
        Share of the ball that starts are drawn from, in (0, 1]; it shrinks towards the image.

    Raises
    ------
    ConfigError
        When a field is out of range.

    """

    steps: int = 10
    step: float = 0.0
    milestones: tuple[int, ...] = ()
    restarts: int = 1
    scale: float = 1.0
    loss: Climbed = "ce"
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in get_args(Climbed):
            raise ConfigError(f"method.attack.loss must be ce or kl; got {self.loss!r}")
        if not 0.0 < self.spread <= 1.0:
            raise ConfigError(f"method.attack.spread must lie in (0, 1]; got {self.spread}")
        self.pgd()  # checks the fields
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"method.attack.scale must be a positive number; got {self.scale}")

    def pgd(self) -> PGD:
        """Return the attack."""
        return PGD(
            steps=self.steps,
            step=self.step or None,
            milestones=self.milestones,
            restarts=self.restarts,
            loss=self.loss,
            stop_early=False,
            eval_mode=False,
        )

    def points(self, batch: Batch, box: Box, progress: Progress) -> Tensor:
        """Return the worst points found in ``box``, shape of the images, without gradient."""
        return self.climb(batch.evaluated, batch.x, batch.y, box, progress)

    def climb(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        box: Box,
        progress: Progress,
    ) -> Tensor:
        """Return the worst points for any function from points to logits."""
        use_seeds = x.device.type == "cpu" and progress.seeds is not None

        def in_input_precision(point: Tensor) -> Tensor:  # whatever autocast makes the logits
            return model(point).to(point.dtype)

        found = self.pgd()(
            in_input_precision,
            x,
            y,
            box,
            seeds=progress.seeds if use_seeds else None,
            generator=None if use_seeds else progress.generator,
            start=self._starts(x, box),
        )
        return found.point.detach()

    def _starts(self, x: Tensor, box: Box) -> Box | None:
        """Return the box shrunk towards the images, None for all of it."""
        if self.spread == 1.0:
            return None
        middle = box.project(x.detach())
        lower = torch.lerp(middle, box.lower, self.spread)
        upper = torch.lerp(middle, box.upper, self.spread)
        return Box(torch.maximum(lower, box.lower), torch.minimum(upper, box.upper))
