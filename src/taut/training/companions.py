"""What goes along with the loop: schedules of the network itself, averages, statistics.

A companion acts on the model around steps and epochs. It keeps nothing of its own: what has to
outlast a step is in the model or in the run's memory, both of which the checkpoint holds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from taut.errors import ConfigError

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

    def before_update(self, run: Run, step: int) -> None:
        """Act when the gradients are there, before the optimiser's step."""

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
    """Return the companions that a run's settings ask for, in the order they act.

    Raises
    ------
    ConfigError
        When they do not fit the model or one another.

    """
    from taut.training.activation import activation_companion  # both modules subclass Companion
    from taut.training.average import Population, WeightAverage

    settings = run.settings
    activation = activation_companion(settings.activation, run.model)
    found: list[Companion] = [] if activation is None else [activation]
    if settings.activation.r_init == "mean":
        _check_start_of_ramp(run)
    if settings.batch_norm == "population":
        found.append(Population())
    if settings.average_from > 0:
        found.append(WeightAverage(settings.average_from))
    return tuple(found)


def _check_start_of_ramp(run: Run) -> None:
    """Raise :class:`ConfigError` where r is never initialised, or averaged before it is."""
    epochs, average_from = run.settings.epochs, run.settings.average_from
    if run.natural_only(epochs):
        raise ConfigError(
            f'activation.r_init = "mean" acts when eps begins to grow, which it does not in '
            f'{epochs} epochs; start the ramp earlier or set activation.r_init = "none"'
        )
    if average_from > 0 and run.natural_only(average_from + 1):
        raise ConfigError(
            f"train.average_from = {average_from} averages weights of before eps begins to grow, "
            'where activation.r_init = "mean" keeps r infinite; average later'
        )
