"""A graph's operators at one moment: what every bounding method walks over."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from taut.operators.affine import Scale
from taut.operators.base import Activation, Affine, Operator, Shape
from taut.operators.cells import Beside, Steps
from taut.operators.shape import Identity, Reshape


@dataclass(frozen=True)
class Node:
    """One step: an operator (None for the input), what it reads, and its shape."""

    index: int
    name: str
    operator: Operator | None
    inputs: tuple[int, ...]
    shape: Shape

    @property
    def is_affine(self) -> bool:
        """Whether a linear form passes this node exactly."""
        return isinstance(self.operator, Affine)


@dataclass(frozen=True)
class Network:
    """Nodes in topological order; node 0 is the input and the last one holds the logits."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> Node:
        """The node of the logits."""
        return self.nodes[-1]

    @property
    def input_shape(self) -> Shape:
        """Shape of one image."""
        return self.nodes[0].shape

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.output.shape[0]

    def detached(self) -> Network:
        """Return the network with its weights as constants, which have no gradients."""
        return Network(tuple(replace(n, operator=_detached(n.operator)) for n in self.nodes))

    def bent(self) -> dict[int, list[Activation]]:
        """Return the nodes that activations read, in order, each with its activations."""
        found: dict[int, list[Activation]] = {}
        for node in self.nodes:
            if isinstance(node.operator, Activation):
                found.setdefault(node.inputs[0], []).append(node.operator)
        return dict(sorted(found.items()))

    def affine_of_input(self) -> set[int]:
        """Return the nodes that no activation separates from the input."""
        found = {0}
        for node in self.nodes[1:]:
            if node.is_affine and all(i in found for i in node.inputs):
                found.add(node.index)
        return found

    def exact_over_boxes(self) -> set[int]:
        """Return nodes whose intervals are exact over a box: one mixing of pixels at most.

        Elements of the nodes in ``apart`` depend on pixels of their own, so that one affine
        operator after them loses nothing; what only moves or scales elements never does, nor
        do the cells of a grid.
        """
        apart, found = {0}, {0}
        for node in self.nodes[1:]:
            if isinstance(node.operator, Steps) and node.inputs == (0,):
                apart.add(node.index)
                found.add(node.index)
            if not node.is_affine:
                continue
            if isinstance(node.operator, Scale | Identity | Reshape | Beside):
                found.update({node.index} if node.inputs[0] in found else ())
                apart.update({node.index} if node.inputs[0] in apart else ())
            elif len(node.inputs) == 1 and node.inputs[0] in apart:
                found.add(node.index)
        return found

    def depths(self) -> list[int]:
        """Return the largest number of activations on a path from the input to each node."""
        found = [0]
        for node in self.nodes[1:]:
            found.append(max(found[i] for i in node.inputs) + (not node.is_affine))
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate points ``(B, *input shape)`` to logits ``(B, K)``."""
        values: list[Tensor] = [x]
        for node in self.nodes[1:]:
            assert node.operator is not None
            values.append(node.operator.forward(*(values[i] for i in node.inputs)))
        return values[-1]


def _detached(operator: Any) -> Any:
    """Return an operator (or None) whose tensors have no gradients."""
    if not is_dataclass(operator) or isinstance(operator, type):
        return operator
    tensors = {
        field.name: value.detach()
        for field in fields(operator)
        if isinstance(value := getattr(operator, field.name), Tensor)
    }
    return replace(operator, **tensors) if tensors else operator
