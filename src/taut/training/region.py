"""First axis of the training grid: which input sets are bounded for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from taut.graph import Graph, Network
from taut.region import PIXELS, Box
from taut.training.progress import Progress


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's batch and networks, shared by everything that is computed on it.

    Parameters
    ----------
    graph
        The traced model, for evaluations in another mode (attacks with running statistics).
    network
        The operators of this step, batch normalisation fixed to the clean batch's statistics.
    x, y
        Images ``(B, *shape)`` in pixels of [0, 1] and labels ``(B,)``.
    logits
        Clean logits ``(B, K)``, with gradient.

    """

    graph: Graph
    network: Network
    x: Tensor
    y: Tensor
    logits: Tensor


class WeightedBox(NamedTuple):
    """One input set and the weight of its loss; a region's weights add up to 1."""

    box: Box
    weight: float


class Region(Protocol):
    """A rule that gives input sets to a batch."""

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the sets to bound at radius ``eps`` (pixels); their losses are averaged.

        ``eps`` is an argument of its own so that one region can ask another for smaller sets.
        """
        ...


@dataclass(frozen=True)
class FullBall:
    r"""The whole l_inf ball, :math:`[x-\varepsilon, x+\varepsilon]`, with weight 1.

    Parameters
    ----------
    clip
        Cut the ball to the pixel range [0, 1]. Most published codes do; the small and medium
        CIFAR-10 configurations of the CROWN-IBP code do not.

    """

    clip: bool = True

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the ball around each image."""
        return (WeightedBox(Box.around(batch.x, eps, PIXELS if self.clip else None), 1.0),)


REGIONS: dict[str, type[Region]] = {"full-ball": FullBall}
"""Regions by the name a recipe calls them."""
