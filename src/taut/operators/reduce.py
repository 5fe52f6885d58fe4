"""Sums and means over axes of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.operators.base import Affine, Shape
from taut.operators.registry import Case, Entry, Template, Value, builds, register


@dataclass(frozen=True)
class Sum(Affine):
    """``weight`` times the sum over ``axes``, counted without the batch axis.

    The axes stay with length one, or go when ``keepdim`` is false. A mean over n elements has
    the weight ``1 / n``.
    """

    name: ClassVar[str] = "sum"
    axes: tuple[int, ...]
    keepdim: bool = False
    weight: float = 1.0

    def _summed(self, x: Tensor) -> Tensor:
        found = x.sum([axis + 1 for axis in self.axes], keepdim=self.keepdim)
        return found if self.weight == 1.0 else found * self.weight

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._summed(inputs[0])

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._summed(radii[0])

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        (shape,) = shapes
        kept = [1 if axis in self.axes else size for axis, size in enumerate(shape)]
        weighted = rows if self.weight == 1.0 else rows * self.weight
        return (weighted.reshape(-1, *kept).expand(-1, *shape).contiguous(),)


def axes_of(dim: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return the axes that ``dim`` names on nodes of ``rank`` axes, without the batch axis."""
    named = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    axes = tuple(sorted({axis % (rank + 1) - 1 for axis in named}))
    if not axes or axes[0] < 0:
        raise UnsupportedOperator("over the batch axis; name the axes, the first one left out")
    return axes


@builds(torch.sum, "sum")
def _sum(
    shape: Shape,
    module: None,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Template:
    axes = axes_of(dim, len(input.shape))
    return Template((input,), lambda: Sum(axes, keepdim))


@builds(torch.mean, "mean")
def _mean(
    shape: Shape,
    module: None,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Template:
    axes = axes_of(dim, len(input.shape))
    weight = 1.0 / math.prod(input.shape[axis] for axis in axes)
    return Template((input,), lambda: Sum(axes, keepdim, weight))


def _cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Sum((1, 2), weight=1 / 6), ((4, 2, 3),)),
        Case(Sum((0,)), ((3, 2),)),
        Case(Sum((0, 2), keepdim=True, weight=0.5), ((2, 3, 2),)),
    ]


register(Entry("sum", "sum or mean over axes", _cases))
