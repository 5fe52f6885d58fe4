"""The two kinds of operator: affine ones and element-wise activations.

An operator is a frozen value over tensors. It knows nothing of graphs, modules
or methods; every bounding method is written over the few maps declared here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from taut.operators.forms import Bounds, Interval, Lines

Shape = tuple[int, ...]
"""The shape of a node without its batch axis."""


class Operator(ABC):
    """A deterministic function of one or more tensors ``(B, *shape)``."""

    name: ClassVar[str]

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Map points ``(B, *shape)``."""

    @abstractmethod
    def interval(self, *inputs: Interval) -> Interval:
        """Map intervals to an interval that holds every image of their points."""


class Affine(Operator):
    r"""An operator :math:`f(x_1, \dots, x_k) = \sum_i W_i x_i + b`, never stored as a matrix."""

    @abstractmethod
    def magnitude(self, *radii: Tensor) -> Tensor:
        r"""Map radii with the absolute values, :math:`\sum_i |W_i| r_i`."""

    @abstractmethod
    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        r"""Pull rows of a linear form back to every input, :math:`a \mapsto a W_i`.

        ``rows`` has shape ``(N, *output shape)``; the result holds one ``(N, *shape)``
        per input shape given.
        """

    def constant(self, rows: Tensor) -> Tensor | None:
        """Return the bias's share of each row, ``a b`` of shape ``(N,)``; None without bias."""
        return None

    def interval(self, *inputs: Interval) -> Interval:
        """Map the midpoints as points and the radii with the absolute values."""
        center = self.forward(*(i.center for i in inputs))
        return Interval(center, self.magnitude(*(i.radius for i in inputs)))


class Activation(Operator):
    """An element-wise non-decreasing function, bounded by lines where it bends."""

    @abstractmethod
    def lines(self, bounds: Bounds, kind: str) -> Lines:
        """Return lines of the family ``kind`` (see :data:`LINES`), valid on ``bounds``."""

    @abstractmethod
    def bends(self, bounds: Bounds) -> Tensor:
        """Tell where no line is exact on ``bounds``, so better bounds would help; boolean."""

    def interval(self, *inputs: Interval) -> Interval:
        """Map the ends, which is exact for a non-decreasing function."""
        (z,) = inputs
        ends = z.bounds
        return Interval.between(self.forward(ends.lower), self.forward(ends.upper))

    def interval_in_place(self, z: Interval) -> Interval:
        """Map an interval whose tensors nobody else needs and that may be overwritten."""
        return self.interval(z)

    def constant_lines(self, bounds: Bounds) -> Lines:
        """IBP's lines: slope zero at the values of the two ends."""
        flat = torch.zeros_like(bounds.lower)
        return Lines(flat, self.forward(bounds.lower), flat, self.forward(bounds.upper))
