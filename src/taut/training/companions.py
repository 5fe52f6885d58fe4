"""What goes along with the loop: schedules of the network itself, averages, statistics.

A companion acts on the model around steps and epochs. It keeps nothing of its own: what has to
outlast a step is in the model or in the run's memory, both of which the checkpoint holds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taut.training.run import Run


class Companion:
    """Does nothing; subclasses override what they need.

    Epochs count from 1; steps are the 0-based optimiser steps of the run.
    """

    def begin_epoch(self, run: Run, epoch: int) -> None:
        """Act before the first step of an epoch, the model in training mode."""

    def before_step(self, run: Run, step: int) -> None:
        """Act before the loss of a step is computed."""

    def after_step(self, run: Run, step: int) -> None:
        """Act after the optimiser's step."""

    def end_epoch(self, run: Run, epoch: int) -> None:
        """Act after the last step of an epoch, before validation and checkpoint."""

    def evaluation(self, run: Run, epoch: int) -> AbstractContextManager[None]:
        """Return a context in which the model is the one to be evaluated after an epoch."""
        return nullcontext()

    def finish(self, run: Run) -> None:
        """Act once after the last epoch; what it leaves is what training returns."""


def companions(run: Run) -> tuple[Companion, ...]:
    """Return the companions that a run's settings ask for, in the order they act."""
    return ()
