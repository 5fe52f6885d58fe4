"""Ordinary training."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from taut.graph import Graph
from taut.training.losses import accuracy
from taut.training.methods.base import Description
from taut.training.progress import Losses, Progress
from taut.training.region import Batch


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
        return Losses(natural, {"natural": natural.detach()}, rates, Batch(graph, x, y))


METHOD = Description(
    "natural",
    "ordinary training",
    "",
    "no region: the image itself",
    "CE(z(x), y)",
    "1",
    Natural(),
)
