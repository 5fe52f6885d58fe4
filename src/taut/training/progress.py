"""What a training method is told at each step, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from taut.training.bound.base import Bounded
    from taut.training.region.base import Batch

NEGLIGIBLE_EPS = 1e-6
"""An epoch whose last step has no larger eps is trained on the natural loss alone (pixels)."""


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a run stands at one optimiser step.

    Parameters
    ----------
    step
        Optimiser step of the run, from 0.
    epoch
        Epoch of the run, from 1.
    eps
        Radius of this step in pixels of [0, 1].
    eps_max
        Radius the ramp ends at; schedules of kappa and beta are tied to ``eps / eps_max``.
    natural_only
        True in a warm-up epoch: eps at its last step is about zero.
    generator
        Source of the step's random numbers, on the batch's device; one stream per process.
    seeds
        One seed per image of the batch, int64 ``(B,)``, drawn anew each epoch. What is drawn
        from them depends neither on the number of processes nor on the device.
    memory
        Tensors a combination keeps from one step to the next; they are part of the checkpoint.
    steps
        Optimiser steps per epoch.
    average
        Averages a tensor over the processes of a data-parallel run, each weighted by its share
        of the batch; every process has to call it equally often.
    images
        Images of the whole batch, over all processes; 0 where that is not told.

    """

    step: int
    epoch: int
    eps: float
    eps_max: float
    natural_only: bool = False
    generator: torch.Generator | None = None
    seeds: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 1
    average: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)
    images: int = 0

    @property
    def epochs(self) -> float:
        """Epochs of the run that are over, with its fraction."""
        return self.step / self.steps

    @property
    def fraction(self) -> float:
        """Share of the ramp that is done, ``eps / eps_max`` in [0, 1]; 0 where ``eps_max`` is 0."""
        return self.eps / self.eps_max if self.eps_max > 0 else 0.0

    def between(self, start: float, end: float) -> float:
        """Interpolate a schedule tied to eps: ``start`` at eps 0, ``end`` at ``eps_max``."""
        return start + (end - start) * self.fraction


@dataclass(frozen=True, eq=False)
class Losses:
    """A method's answer: one scalar to differentiate, and figures to log.

    Parameters
    ----------
    total
        Scalar whose gradient is the update's gradient.
    parts
        Detached scalars by name (``natural``, ``robust``, ``adversarial``), means over the batch.
    rates
        Detached shares of the batch in [0, 1]: ``natural_accuracy``; ``attacked_accuracy``, after
        the attack trained on; ``robust_accuracy``, the images whose bound proves the region
        trained on (of the network in training mode, so no certificate).
    batch
        The step's batch and network, for regularisers; None where a method has none.
    bounded
        The bounds of this step's own input sets, for regularisers.

    """

    total: Tensor
    parts: Mapping[str, Tensor]
    rates: Mapping[str, Tensor] = field(default_factory=dict)
    batch: Batch | None = None
    bounded: tuple[Bounded, ...] = ()
