"""Adversarial training: the loss at the worst points an attack finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from taut.graph import Graph
from taut.region import Box
from taut.training.attack import TrainingAttack
from taut.training.losses import accuracy
from taut.training.methods.base import Description
from taut.training.methods.natural import Natural
from taut.training.progress import Losses, Progress
from taut.training.region import Batch


@dataclass(frozen=True)
class PGDTraining:
    r"""Adversarial training, :math:`L = \mathrm{CE}(z(x_\text{adv}), y)`.

    The attack starts at a random point of the clipped ball of the step's eps, follows the sign
    of the cross-entropy's gradient in evaluation mode, and returns the iterate with the highest
    loss. On the CPU its starts come from the images' seeds, else from the step's generator.

    Parameters
    ----------
    steps
        Gradient steps; one is FGSM with a random start.
    step
        Length of a step in half widths of the clipped ball (eps where it is not clipped); 0 means
        ``2.5 / steps``.

    References
    ----------
    Madry et al., *Towards deep learning models resistant to adversarial attacks* (2018), Eq. 2.1;
    Wong et al., *Fast is better than free* (2020), Algorithm 3 (``steps = 1, step = 1.25``).

    """

    steps: int = 10
    step: float = 0.0

    def __post_init__(self) -> None:
        self.attack()  # checks the fields

    def attack(self) -> TrainingAttack:
        """Return the attack."""
        return TrainingAttack(steps=self.steps, step=self.step)

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP: cheap, and shows how little an adversarially trained network allows."""
        return ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the cross-entropy at the attacked images; in a warm-up epoch, at the images."""
        if progress.natural_only:
            return Natural().loss(graph, x, y, progress)
        batch = Batch(graph, x, y)
        point = self.attack().points(batch, Box.around(x, progress.eps), progress)
        logits: Tensor = graph.module(point)
        adversarial = F.cross_entropy(logits, y)
        rates = {"attacked_accuracy": accuracy(logits, y)}
        return Losses(adversarial, {"adversarial": adversarial.detach()}, rates, batch)


FGSM = Description(
    "fgsm",
    "adversarial training with one step from a random start",
    "Wong et al. 2020, arXiv:2001.03994",
    "full ball x attack x its loss alone",
    "CE(z(x_adv), y)",
    "2.5: one step, one check, one training pass",
    PGDTraining(steps=1, step=1.25),
)
PGD = Description(
    "pgd",
    "adversarial training with projected gradient descent",
    "Madry et al. 2018, arXiv:1706.06083",
    "full ball x attack x its loss alone",
    "CE(z(x_adv), y)",
    "steps + 1.5",
    PGDTraining(),
)
