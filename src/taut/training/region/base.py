"""What a region is, and the batch it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from taut.errors import ConfigError
from taut.graph import Graph, Network
from taut.region import Box
from taut.training.progress import Progress


class Batch:
    """One step's batch, its networks and clean logits, each made when first asked for.

    The clean pass fixes the statistics of batch normalisation for the bounds of the same step,
    with gradients. Dropout drops there, and there only: what is bounded is the network as it will
    be evaluated.

    Parameters
    ----------
    graph
        The traced model; its module is in training mode.
    x, y
        Images ``(B, *shape)`` in pixels of [0, 1] and labels ``(B,)``.

    """

    def __init__(self, graph: Graph, x: Tensor, y: Tensor) -> None:
        self.graph, self.x, self.y = graph, x, y
        self._logits: Tensor | None = None
        self._network: Network | None = None
        self._evaluated: Network | None = None

    @property
    def network(self) -> Network:
        """The operators of this step, with gradients to the parameters."""
        if self._network is None:
            if self.graph.has_clean_pass:
                self._logits, self._network = self.graph.clean(self.x)
            else:
                self._network = self.graph.instance()
        return self._network

    @property
    def logits(self) -> Tensor:
        """Clean logits ``(B, K)``, with gradients to the parameters."""
        network = self.network
        if self._logits is None:
            self._logits = network(self.x)
        return self._logits

    @property
    def known_logits(self) -> Tensor | None:
        """Clean logits where something has needed them already."""
        return self._logits

    @property
    def evaluated(self) -> Network:
        """The network as it stands in evaluation mode, without gradients to the parameters."""
        if self._evaluated is None:
            self._evaluated = self.graph.instance().detached()
        return self._evaluated

    def normalised_by(self, points: Tensor) -> Tensor:
        """Return the logits of ``points``, whose statistics normalise this step from now on."""
        if self._network is not None:
            raise RuntimeError("the statistics of this step are those of its clean pass already")
        logits, self._network = self.graph.clean(points)
        return logits


class WeightedBox(NamedTuple):
    """One input set and the weight of its loss; a region's weights add up to 1.

    ``node`` is the node of the network that the box is about: 0, its pixels, or one behind which
    nothing reads what was before. The network that is bounded begins there.
    """

    box: Box
    weight: float
    node: int = 0


class Region(Protocol):
    """A rule that gives input sets to a batch."""

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the sets to bound at radius ``eps`` (pixels); their losses are averaged.

        ``eps`` is an argument of its own so that one region can ask another for smaller sets.
        """
        ...


def of_pixels(sets: Sequence[WeightedBox], region: str) -> Sequence[WeightedBox]:
    """Return the sets; raise :class:`ConfigError` where one is about a node behind the pixels."""
    if any(each.node != 0 for each in sets):
        raise ConfigError(
            f"the region {region} is made of sets of pixels, and its inner region gives sets of "
            'values behind the cells; choose another one, or kind = "subset"'
        )
    return sets


def widest(sets: Sequence[WeightedBox]) -> Box:
    """Return the set with the largest sum of widths."""
    if len(sets) == 1:
        return sets[0].box
    widths = torch.stack([(each.box.upper - each.box.lower).sum() for each in sets])
    return sets[int(widths.argmax())].box
