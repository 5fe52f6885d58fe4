"""The mean of the weights at the ends of epochs, for validation and as the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taut.training.companions import Companion
from taut.training.population import kept_statistics, norms, population_statistics

if TYPE_CHECKING:
    from taut.training.run import Run

COUNT = "average/count"
"""Where the run's memory keeps how many epochs are averaged."""


class WeightAverage(Companion):
    r"""Averages the weights over the ends of all epochs after the first ``after``.

    .. math:: \bar\theta_n = \bar\theta_{n-1} + (\theta_n - \bar\theta_{n-1}) / n

    The mean lies in the run's memory and training does not see it. Validation does, with
    statistics of batch normalisation that are estimated anew on the training images, and so
    does whoever receives the model: it stays in it after the last epoch.

    Parameters
    ----------
    after
        Epochs trained before averaging begins, at least 1.

    References
    ----------
    Izmailov et al., *Averaging weights leads to wider optima and better generalization* (2018),
    Algorithm 1.

    """

    def __init__(self, after: int) -> None:
        self.after = after

    @torch.no_grad()
    def end_epoch(self, run: Run, epoch: int) -> None:
        """Take the weights of this epoch into the mean."""
        if epoch <= self.after:
            return
        count = run.memory.get(COUNT, torch.zeros((), dtype=torch.int64)) + 1
        run.memory[COUNT] = count
        for name, parameter in _trained(run.model).items():
            kept = run.memory.get(_key(name))
            if kept is None:
                run.memory[_key(name)] = parameter.detach().clone()
            else:  # a new tensor: a checkpoint may still hold the old one
                run.memory[_key(name)] = kept + (parameter - kept) / int(count)

    @contextmanager
    def evaluation(self, run: Run, epoch: int) -> Iterator[None]:
        """Put the mean into the model, and the weights back afterwards."""
        if COUNT not in run.memory:
            yield
            return
        own = {name: p.detach().clone() for name, p in _trained(run.model).items()}
        with kept_statistics(run.model):
            _put(run)
            try:
                yield
            finally:
                with torch.no_grad():
                    for name, parameter in _trained(run.model).items():
                        parameter.copy_(own[name])

    def finish(self, run: Run) -> None:
        """Leave the mean in the model."""
        if COUNT in run.memory:
            _put(run)


class Population(Companion):
    """Re-estimates the statistics of batch normalisation on the training images every epoch."""

    def end_epoch(self, run: Run, epoch: int) -> None:
        """Set running statistics to those of the training images."""
        estimate(run)


def estimate(run: Run) -> None:
    """Estimate statistics on the un-augmented training images, if the model has any."""
    if norms(run.model):
        part = (run.fabric.global_rank, run.fabric.world_size)
        population_statistics(run.graph, run.images, part=part, reduce=run.reduce)


@torch.no_grad()
def _put(run: Run) -> None:
    for name, parameter in _trained(run.model).items():
        parameter.copy_(run.memory[_key(name)])
    estimate(run)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _key(name: str) -> str:
    return f"average/weights/{name}"
