"""The module whose forward pass is the loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from taut.graph import Graph
from taut.training.methods import Method
from taut.training.progress import Losses, Progress
from taut.training.regularise import Regularisers


class Call:
    """The arguments of one forward pass.

    An opaque holder: Fabric converts tensors in the arguments it can look into, and pixels
    rounded to bfloat16 would be other pixels.
    """

    __slots__ = ("progress", "x", "y")

    def __init__(self, x: Tensor, y: Tensor, progress: Progress) -> None:
        self.x = x
        self.y = y
        self.progress = progress


class Answer(NamedTuple):
    """:class:`~taut.training.progress.Losses` in a form that Fabric and DDP pass through."""

    total: Tensor
    parts: dict[str, Tensor]
    rates: dict[str, Tensor]


class Objective(nn.Module):
    """Owns the user's model and its graph; its forward pass computes the method's loss.

    Bounds do not go through the model's own ``forward``, which is what data-parallel training
    would watch; with the loss inside the forward pass of this module, gradients are averaged
    over the processes whatever the method computes.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, method: Method, regularisers: Regularisers
    ) -> None:
        super().__init__()
        self.regularisers = regularisers
        self.model = model
        self.graph = graph
        self.method = method

    def forward(self, call: Call) -> Answer:
        """Return the loss of one batch, the regularisers' terms added."""
        losses: Losses = self.method.loss(self.graph, call.x, call.y, call.progress)
        total, parts = losses.total, dict(losses.parts)
        for name, term in self.regularisers.terms(losses, self.model, call.progress).items():
            total = total + term
            parts[name] = term.detach()
        return Answer(total, parts, dict(losses.rates))
