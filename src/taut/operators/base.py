"""The two kinds of operator: affine ones and element-wise activations.

An operator is a frozen value over tensors. It knows nothing of graphs, modules
or methods; every bounding method is written over the few maps declared here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.operators.forms import Bounds, Interval, Lines

Shape = tuple[int, ...]
"""The shape of a node without its batch axis."""

Pair = tuple[int, int]
"""Sizes along both axes of an image, (height, width)."""


@dataclass(frozen=True)
class Reach:
    """The input pixels that an output pixel of a convolution-like operator depends on.

    Along each axis output ``i`` reads ``extent`` inputs from ``i * stride - padding`` on.
    """

    stride: Pair
    padding: Pair
    extent: Pair


POINTWISE = Reach((1, 1), (0, 0), (1, 1))
"""Each output pixel reads the input pixel at its own place."""


def channels_last(x: Tensor) -> Tensor:
    """Lay images ``(N, C, H, W)`` out pixel by pixel; a tensor of other axes stays as it is.

    Convolutions run faster on that, CPU and GPU alike.
    """
    if x.dim() != 4:
        return x
    if x.shape[1] == 1:
        # One channel lies the same either way; say so by the strides, or the
        # convolution would choose the other layout for its result.
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


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

    def linear(self, *inputs: Tensor) -> Tensor:
        r"""Map points without the bias, :math:`\sum_i W_i x_i`."""
        return self.forward(*inputs)

    @property
    def reach(self) -> Reach | None:
        """How a window of output pixels reaches back into the inputs; None where none does.

        With it the operator has :meth:`pull`, and rows of single pixels are pulled back
        without their zeros.
        """
        return None

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Pull windows ``(N, C, h, w)`` of rows back to the windows they reach.

        A window that begins at output row i and has h rows reaches input rows from
        ``i * stride - padding`` on, ``(h - 1) * stride + extent`` of them.
        """
        raise NotImplementedError

    def interval(self, *inputs: Interval) -> Interval:
        """Map the midpoints as points and the radii with the absolute values."""
        center = self.forward(*(i.center for i in inputs))
        return Interval(center, self.magnitude(*(i.radius for i in inputs)))


class Activation(Operator):
    """A function that is not affine, bounded by lines where it bends.

    It works element by element, non-decreasing unless :meth:`image` says otherwise; or, with
    ``axis`` set, it takes the elements along one axis together and removes that axis.
    """

    axis: int | None = None
    """The axis taken together, counted without the batch axis; None works by elements."""

    jumps: ClassVar[bool] = False
    """Whether the function jumps, so that the last bit of an end of an interval matters."""

    domain: tuple[float, float] = (-math.inf, math.inf)
    """Where the function is defined; the lower end itself is not (log, sqrt)."""

    @abstractmethod
    def lines(self, bounds: Bounds, kind: str) -> Lines:
        """Return lines of the family ``kind`` (see :data:`LINES`), valid on ``bounds``."""

    @abstractmethod
    def bends(self, bounds: Bounds) -> Tensor:
        """Tell where no line is exact on ``bounds``, so better bounds would help; boolean."""

    def image(self, bounds: Bounds) -> Bounds:
        """Return the exact range over ``bounds``: here that of a non-decreasing function."""
        return Bounds(self.forward(bounds.lower), self.forward(bounds.upper))

    def interval(self, *inputs: Interval) -> Interval:
        """Map an interval to the exact range over it."""
        (z,) = inputs
        ends = self.image(z.bounds)
        return Interval.between(ends.lower, ends.upper)

    def interval_in_place(self, z: Interval) -> Interval:
        """Map an interval whose tensors nobody else needs and that may be overwritten."""
        return self.interval(z)

    def constant_lines(self, bounds: Bounds) -> Lines:
        """IBP's lines: slope zero at the ends of the range."""
        flat, ends = torch.zeros_like(bounds.lower), self.image(bounds)
        return Lines(flat, ends.lower, flat, ends.upper)
