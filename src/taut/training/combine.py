"""Third axis of the training grid: how the losses of a step become one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from taut.training.bound import Bound, Bounded, share
from taut.training.losses import accuracy, proved
from taut.training.progress import Losses, Progress
from taut.training.region import Batch, Region


class Robust(NamedTuple):
    """The robust loss of a step and the bounds it came from, one per input set."""

    loss: Tensor
    bounded: tuple[Bounded, ...]


@dataclass(frozen=True, eq=False)
class Terms:
    """The losses a combination may ask for; each call computes afresh, so ask once."""

    batch: Batch
    region: Region
    bound: Bound
    progress: Progress

    def natural(self) -> Tensor:
        """Return the cross-entropy of the clean logits, mean over the batch."""
        return F.cross_entropy(self.batch.logits, self.batch.y)

    def robust(self) -> Robust:
        """Return the weighted mean of the bounded losses over the region's input sets."""
        batch, progress = self.batch, self.progress
        total: Tensor | None = None
        found = []
        for box, weight in self.region.boxes(batch, progress.eps, progress):
            bounded = self.bound.bounded(batch.network, box, batch.y, progress)
            loss = bounded.losses.mean()
            loss = loss if weight == 1.0 else weight * loss
            total = loss if total is None else total + loss
            found.append(bounded)
        assert total is not None, "a region gives at least one input set"
        return Robust(total, tuple(found))


class Combination(Protocol):
    """A rule that turns the losses of a step into the scalar to differentiate."""

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the update's loss and the figures to log."""
        ...


@dataclass(frozen=True)
class Mix:
    r"""Natural and robust loss with a weight tied to eps.

    .. math:: L = \kappa L_\text{nat} + (1-\kappa) L_\text{rob}, \qquad
              \kappa = \kappa_0 + (\kappa_1 - \kappa_0)\, \varepsilon/\varepsilon_{\max}

    With both weights 0 it is the robust loss alone (the ``robust`` mode of published codes). An
    epoch whose last eps is about zero trains on the natural loss alone.

    Parameters
    ----------
    kappa_start, kappa_end
        Weight of the natural loss at eps 0 and at full eps, in [0, 1].

    Raises
    ------
    ConfigError
        When a weight leaves [0, 1].

    References
    ----------
    Gowal et al. (2018), Eq. 12; Zhang et al. (2020), Eq. 11 and its published code, which ties
    the weight to eps rather than to epochs.

    """

    kappa_start: float = 1.0
    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        for name in ("kappa_start", "kappa_end"):
            share(f"method.{name}", getattr(self, name))

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the mixed loss; a term without weight is left out of the gradient's graph."""
        natural = terms.natural()
        rates = {"natural_accuracy": accuracy(terms.batch.logits, terms.batch.y)}
        parts = {"natural": natural.detach()}
        if progress.natural_only:
            return Losses(natural, parts, rates)
        robust = terms.robust()
        parts["robust"] = robust.loss.detach()
        rates["robust_accuracy"] = proved(robust.bounded[-1].margins)
        kappa = progress.between(self.kappa_start, self.kappa_end)
        if kappa == 0.0:
            return Losses(robust.loss, parts, rates)
        return Losses(kappa * natural + (1.0 - kappa) * robust.loss, parts, rates)


COMBINATIONS: dict[str, type[Combination]] = {"mix": Mix}
"""Combinations by the name a recipe calls them."""
