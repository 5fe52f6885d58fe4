"""The largest element along an axis, and what is built from it: max pooling, amax, minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.operators.affine import reader, scale_template
from taut.operators.base import Activation, Affine, Pair, Shape
from taut.operators.combine import Call, Combine, adjoint
from taut.operators.forms import LINES, Bounds, Lines, unknown
from taut.operators.reduce import axes_of
from taut.operators.registry import Case, Entry, Inner, Template, Value, builds, register


class _Race(NamedTuple):
    """The likely winner of each maximum: its place and ends, and the best end of the others."""

    place: Tensor
    lower: Tensor
    upper: Tensor
    others: Tensor


@dataclass(frozen=True)
class Maximum(Activation):
    r"""The largest element along ``axis``, which it removes.

    Let i be the element with the largest lower bound (of several, the one with the
    largest upper bound) and M the largest upper bound of the others. The lower line is
    :math:`z_i`. The upper line is

    .. math::

        z_i \;\text{if}\; M \le l_i, \qquad M \;\text{if}\; u_i \le M, \qquad
        M + \frac{u_i - M}{u_i - l_i} (z_i - l_i) \;\text{otherwise,}

    which dominates the constant :math:`\max_j u_j`; with ``same-slope`` it is
    :math:`z_i + \max(0, M - l_i)`. All kinds but ``constant`` share the lower line.
    """

    name: ClassVar[str] = "maximum"
    axis: int = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].amax(self.axis + 1)

    def _race(self, bounds: Bounds) -> _Race:
        axis, lowest = self.axis + 1, -torch.inf
        first = bounds.lower == bounds.lower.amax(axis, keepdim=True)
        ends = bounds.upper.masked_fill(~first, lowest)
        place = ends.argmax(axis, keepdim=True)
        return _Race(
            place,
            bounds.lower.gather(axis, place).squeeze(axis),
            bounds.upper.gather(axis, place).squeeze(axis),
            bounds.upper.scatter(axis, place, lowest).amax(axis),
        )

    def bends(self, bounds: Bounds) -> Tensor:
        race = self._race(bounds)
        axis = self.axis + 1
        undecided = (race.others > race.lower).unsqueeze(axis)
        return undecided & (bounds.upper > race.lower.unsqueeze(axis))

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind not in LINES:
            raise unknown(kind)
        if kind == "constant":
            return self.constant_lines(bounds)
        axis, race = self.axis + 1, self._race(bounds)
        flat = torch.zeros_like(bounds.lower)
        own = flat.scatter(axis, race.place, 1.0)
        if kind == "same-slope":
            return Lines(own, None, own, (race.others - race.lower).clamp(min=0))
        decided = race.others <= race.lower
        start = torch.where(decided, race.lower, race.others)
        width = (race.upper - race.lower).clamp(min=torch.finfo(start.dtype).tiny)
        slope = torch.where(decided, 1.0, (race.upper - start).clamp(min=0) / width)
        top = torch.maximum(race.upper, start)
        return Lines(
            own,
            None,
            flat.scatter(axis, race.place, slope.unsqueeze(axis)),
            # Through the upper end as rounded, so that no slope, one that underflows either,
            # lowers the line there.
            top - top * slope,
        )


@dataclass(frozen=True)
class PoolWindows(Affine):
    """The pixels of every pooling window along a new axis: ``(C, H, W)`` to ``(C, k, H', W')``.

    A window that sticks out of the image repeats its pixels at the border, which
    changes no maximum. ``margins`` are (left, right, top, bottom), how far windows stick out.
    """

    name: ClassVar[str] = "pool-windows"
    kernel: Pair
    stride: Pair
    dilation: Pair = (1, 1)
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    def _gather(self, x: Tensor) -> Tensor:
        found = F.unfold(self._widen(x), self.kernel, self.dilation, 0, self.stride)
        return found.view(*x.shape[:2], -1, *self._counts(x.shape[2:]))

    def _widen(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins, "replicate") if any(self.margins) else x

    def _widened(self, size: Sequence[int]) -> Pair:
        left, right, top, bottom = self.margins
        return size[0] + top + bottom, size[1] + left + right

    def _counts(self, size: Sequence[int]) -> Pair:
        """Return how many windows an image of ``size`` has down and across."""

        def count(axis: int) -> int:
            extent = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            return (self._widened(size)[axis] - extent) // self.stride[axis] + 1

        return count(0), count(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._gather(inputs[0])

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._gather(radii[0])

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        (shape,) = shapes
        found = F.fold(
            rows.flatten(1, 2).flatten(2),
            self._widened(shape[1:]),
            self.kernel,
            self.dilation,
            0,
            self.stride,
        )
        return (adjoint(self._widen, found, shape) if any(self.margins) else found,)


def negated(x: Value | Inner) -> Template:
    """Return ``-x``."""
    return scale_template(x, reader(-1.0), None)


def largest(x: Value | Inner, axis: int) -> Template:
    """Return the maximum over ``axis``, counted without the batch axis."""
    return Template((x,), lambda: Maximum(axis))


def _extreme(
    shape: Shape, x: Value, dim: int | Sequence[int] | None, sign: int, keepdim: bool
) -> Template:
    """Return the maximum (``sign`` 1) or minimum (-1) over axes of each image."""
    axes = axes_of(dim, len(x.shape))
    start: Value | Inner = x if sign > 0 else Inner(negated(x), x.shape)
    rest = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    if len(axes) > 1:
        move = Call(_together, (tuple(axis + 1 for axis in axes),))
        count = torch.Size(x.shape).numel() // torch.Size(rest).numel()
        start = Inner(Template((start,), lambda: Combine(move)), (count, *rest))
    found = largest(start, 0 if len(axes) > 1 else axes[0])
    if sign < 0:
        found = negated(Inner(found, rest))
    if keepdim:
        back = Call(_kept, (shape,))
        found = Template((Inner(found, rest),), lambda: Combine(back))
    return found


def _together(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ``x`` with some axes flattened into one, the first behind the batch."""
    return x.movedim(axes, tuple(range(1, len(axes) + 1))).flatten(1, len(axes))


def _kept(x: Tensor, shape: Shape) -> Tensor:
    return x.reshape(x.shape[0], *shape)


@builds(torch.amax, "amax")
def _amax(
    shape: Shape,
    module: None,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Template:
    return _extreme(shape, input, dim, 1, keepdim)


@builds(torch.amin, "amin")
def _amin(
    shape: Shape,
    module: None,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Template:
    return _extreme(shape, input, dim, -1, keepdim)


def _maximum_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Maximum(0), ((2, 5),)),
        Case(Maximum(1), ((3, 4, 2),)),
        Case(Maximum(0), ((1, 3),)),
        Case(Maximum(1), ((2, 4, 2, 3),)),
    ]


def _window_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(PoolWindows((2, 2), (2, 2)), ((2, 5, 4),)),
        Case(PoolWindows((3, 2), (2, 1), margins=(1, 0, 1, 1)), ((1, 4, 3),)),
        Case(PoolWindows((2, 3), (1, 2), (2, 1)), ((2, 4, 5),)),
    ]


register(Entry("maximum", "the largest element along an axis", _maximum_cases))
register(Entry("pool-windows", "the pixels of every max-pooling window", _window_cases))
