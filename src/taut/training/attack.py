"""The attack inside a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from taut.attacks import PGD
from taut.errors import ConfigError
from taut.region import Box
from taut.training.progress import Progress
from taut.training.region.base import Batch


@dataclass(frozen=True)
class TrainingAttack:
    """Projected gradient ascent on the cross-entropy, as training uses it.

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

    """

    steps: int = 10
    step: float = 0.0
    milestones: tuple[int, ...] = ()
    restarts: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
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
        )
        return found.point.detach()
