"""What a combination is, and the losses it may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from taut.region import PIXELS, Box
from taut.training.attack import TrainingAttack
from taut.training.bound import Bound, Bounded
from taut.training.bound.split import tail
from taut.training.progress import Losses, Progress
from taut.training.region import Batch, Region

Statistics = Literal["clean", "attacked"]
"""Which images' batch statistics normalise a step."""


class Robust(NamedTuple):
    """The robust loss of a step and the bounds it came from, one per input set."""

    loss: Tensor
    bounded: tuple[Bounded, ...]
    weights: tuple[float, ...]


class Attacked(NamedTuple):
    """The attacked images of a step, the box searched, and the network's answer, with gradient."""

    point: Tensor
    box: Box
    logits: Tensor
    losses: Tensor


@dataclass(frozen=True, eq=False)
class Terms:
    """The losses a combination may ask for; each call computes afresh, so ask once."""

    batch: Batch
    region: Region
    bound: Bound
    progress: Progress
    statistics: Statistics = "clean"

    def natural(self) -> Tensor:
        """Return the cross-entropy of the clean logits, mean over the batch."""
        return F.cross_entropy(self.batch.logits, self.batch.y)

    def attacked(self, attack: TrainingAttack, eps: float | None = None) -> Attacked:
        """Attack the pixel ball of the step's eps (or ``eps``) times the attack's scale.

        Where the step's statistics are to be those of the attacked images, ask before
        anything else.
        """
        batch = self.batch
        radius = self.progress.eps if eps is None else eps
        box = Box.around(batch.x, radius * attack.scale, PIXELS)
        point = attack.points(batch, box, self.progress)
        if self.statistics == "attacked":
            logits = batch.normalised_by(point)
        else:
            logits = batch.network(point)
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        return Attacked(point, box, logits, losses)

    def robust(self) -> Robust:
        """Return the weighted mean of the bounded losses over the region's input sets."""
        batch, progress = self.batch, self.progress
        network = batch.network  # the clean pass comes first: small boxes see its statistics
        total: Tensor | None = None
        found, weights = [], []
        for box, weight, node in self.region.boxes(batch, progress.eps, progress):
            behind = network if node == 0 else tail(network, node)
            bounded = self.bound.bounded(behind, box, batch.y, progress)
            loss = bounded.losses.mean()
            loss = loss if weight == 1.0 else weight * loss
            total = loss if total is None else total + loss
            found.append(bounded)
            weights.append(weight)
        assert total is not None, "a region gives at least one input set"
        return Robust(total, tuple(found), tuple(weights))


class Combination(Protocol):
    """A rule that turns the losses of a step into the scalar to differentiate."""

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the update's loss and the figures to log."""
        ...
