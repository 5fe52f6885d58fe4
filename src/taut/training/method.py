"""Training methods: a point of the grid, and plain training beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from taut.attacks import PGD
from taut.graph import Graph
from taut.region import Box
from taut.training.bound import IBP, Bound
from taut.training.combine import Combination, Mix, Terms
from taut.training.losses import accuracy
from taut.training.progress import Losses, Progress
from taut.training.region import Batch, FullBall, Region


class Method(Protocol):
    """A frozen description of how a batch becomes a loss; data are arguments."""

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Names of the bounding methods that validation certifies with."""
        ...

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the loss of one batch.

        Parameters
        ----------
        graph
            The traced model; its module is in training mode and gradients reach its parameters.
        x, y
            Images ``(B, *shape)`` in pixels of [0, 1] and labels ``(B,)``.
        progress
            Where the run stands.

        """
        ...


@dataclass(frozen=True)
class GridPoint:
    """A choice on the three axes: region, bound, combination.

    The clean pass comes first and fixes the statistics of batch normalisation for the bounds of
    the same step, with gradients. Dropout is off, in the clean pass as in the bounds: what is
    bounded is the network as it will be evaluated.
    """

    region: Region = field(default_factory=FullBall)
    bound: Bound = field(default_factory=IBP)
    combination: Combination = field(default_factory=Mix)

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Those of the bound."""
        return self.bound.certifiers

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the combined loss of one batch."""
        logits, network = graph.clean(x)
        batch = Batch(graph, network, x, y, logits)
        return self.combination.combine(Terms(batch, self.region, self.bound, progress), progress)


@dataclass(frozen=True)
class Natural:
    r"""Ordinary training, :math:`L = \mathrm{CE}(z(x), y)`, by the module's own forward pass."""

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP: cheap, and shows how little an ordinary network allows."""
        return ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the cross-entropy of the clean logits."""
        logits: Tensor = graph.module(x)
        natural = F.cross_entropy(logits, y)
        rates = {"natural_accuracy": accuracy(logits, y)}
        return Losses(natural, {"natural": natural.detach()}, rates)


class _InputPrecision(nn.Module):
    """The model with its logits in the precision of the images, whatever autocast makes them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits.to(x.dtype)


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

    def attack(self) -> PGD:
        """Return the attack."""
        return PGD(steps=self.steps, step=self.step or None, stop_early=False)

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP: cheap, and shows how little an adversarially trained network allows."""
        return ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the cross-entropy at the attacked images; in a warm-up epoch, at the images."""
        if progress.natural_only:
            return Natural().loss(graph, x, y, progress)
        use_seeds = x.device.type == "cpu" and progress.seeds is not None
        found = self.attack()(
            _InputPrecision(graph.module),
            x,
            y,
            Box.around(x, progress.eps),
            seeds=progress.seeds if use_seeds else None,
            generator=None if use_seeds else progress.generator,
        )
        logits: Tensor = graph.module(found.point)
        adversarial = F.cross_entropy(logits, y)
        rates = {"attacked_accuracy": accuracy(logits, y)}
        return Losses(adversarial, {"adversarial": adversarial.detach()}, rates)
