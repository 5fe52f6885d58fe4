"""What a training method is: a point of the grid, or anything else that gives a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from taut.errors import ConfigError
from taut.graph import Graph
from taut.training.bound import IBP, Bound
from taut.training.combination import Combination, Mix, Statistics, Terms
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

    Parameters
    ----------
    region, bound, combination
        The axes.
    statistics
        Whose batch statistics normalise the step: those of the ``clean`` images, or of the
        ``attacked`` ones, for combinations with an adversarial loss.

    """

    region: Region = field(default_factory=FullBall)
    bound: Bound = field(default_factory=IBP)
    combination: Combination = field(default_factory=Mix)
    statistics: Statistics = "clean"

    def __post_init__(self) -> None:
        if self.statistics not in ("clean", "attacked"):
            raise ConfigError(
                f"method.statistics must be clean or attacked; got {self.statistics!r}"
            )

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Those of the bound."""
        return self.bound.certifiers

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        """Return the combined loss of one batch."""
        terms = Terms(Batch(graph, x, y), self.region, self.bound, progress, self.statistics)
        return self.combination.combine(terms, progress)


@dataclass(frozen=True)
class Description:
    """What the table says of one method.

    Parameters
    ----------
    name
        What a recipe calls it.
    title
        Its name in words.
    paper
        Where it comes from.
    axes
        ``region x bound x combination``, or what stands in their place.
    formula
        The loss of one batch.
    cost
        Passes through the network per step, forward and backward counted as one; K classes. A
        pass of CROWN-IBP moves K - 1 rows at once.
    method
        The method with its default fields.

    """

    name: str
    title: str
    paper: str
    axes: str
    formula: str
    cost: str
    method: Method
