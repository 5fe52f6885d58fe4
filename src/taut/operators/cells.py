"""Cells of a grid over pixels: the abstraction that ABSCERT trains on, as an operator.

A pixel is replaced by the cell it lies in. Where a ball meets one cell only, an adversary has no
influence; where it meets several the pixel *straddles*, and all their values are reachable, those
of different pixels independently. Intervals and constant lines say exactly that, so that every
bounding method holds for the whole ball of images, not for the cells of the clean image alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from taut.operators.base import POINTWISE, Activation, Affine, Reach, Shape
from taut.operators.forms import LINES, Bounds, Lines, unknown
from taut.operators.registry import Case, Entry, register


class _Steps(torch.autograd.Function):
    """``values[#{t <= x}]`` with a straight-through gradient.

    The function is flat almost everywhere. Its gradient with respect to the pixel is that of the
    straight line between its ends; with respect to a threshold the jump there, weighted by a
    tent around the threshold that is two mean cells wide.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, thresholds: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, thresholds, values)
        return _taken(values, cell(x, thresholds))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, thresholds, values = ctx.saved_tensors
        by_x = by_thresholds = None
        rows, levels = thresholds.expand(x.shape[1], -1), values.expand(x.shape[1], -1)
        aside = (-1, *[1] * (x.dim() - 2))
        if ctx.needs_input_grad[0]:
            by_x = grad * (levels[:, -1] - levels[:, 0]).view(aside)
        if ctx.needs_input_grad[1]:
            width, jumps = 1.0 / values.shape[-1], levels.diff(dim=1)
            found = []
            for place in range(thresholds.shape[-1]):  # one tensor of the image's size at a time
                distance = (x - rows[:, place].view(aside)).abs()
                tent = (1 - distance / width).clamp_(min=0) / width
                moved = (grad * tent).transpose(0, 1).flatten(1).sum(1)
                found.append(-jumps[:, place] * moved)
            by_thresholds = torch.stack(found, 1) if found else torch.zeros_like(rows)
            if thresholds.dim() == 1:
                by_thresholds = by_thresholds.sum(0)
        return by_x, by_thresholds, None


def cell(x: Tensor, thresholds: Tensor) -> Tensor:
    """Return the index of the cell each element lies in, int64: how many thresholds it reaches.

    Parameters
    ----------
    x
        Shape ``(B, C, ...)``.
    thresholds
        Ascending, ``(T,)`` for all channels or ``(C, T)``.

    """
    thresholds = thresholds.to(x.dtype)
    if thresholds.dim() == 1:
        return torch.bucketize(x.contiguous(), thresholds, right=True)
    channels = x.transpose(0, 1).contiguous()
    found = torch.searchsorted(thresholds, channels.flatten(1), right=True)
    return found.view(channels.shape).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Steps(Activation):
    r"""A staircase, :math:`v_k` with :math:`k = \#\{j : t_j \le x\}`.

    ``thresholds`` t ascend, ``(T,)`` or one row per channel ``(C, T)``; ``values`` v do not
    descend, ``(T + 1,)`` or ``(C, T + 1)``. A threshold belongs to the cell above it. A channel
    with fewer cells than another ends with thresholds of +inf.

    It has to read the pixels themselves: a rounding before it could move one over an edge.

    All families of lines are the constant ones, :math:`v_{k(l)}` and :math:`v_{k(u)}`. For a
    network that sees its pixels through the steps alone they lose nothing: the pixels of a ball
    reach every combination of their cells, and a linear form takes its minimum over a box at a
    corner. The gradient is straight-through (see the module's docstring of ``taut.models.Cells``).
    Source: Zhang et al. 2023 (ABSCERT) for the abstraction.
    """

    name: ClassVar[str] = "steps"
    jumps: ClassVar[bool] = True
    thresholds: Tensor
    values: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if torch.compiler.is_exporting():
            return _counted(x, self.thresholds, self.values.to(x))
        found: Tensor = _Steps.apply(x, self.thresholds, self.values.to(x))  # type: ignore[no-untyped-call]
        return found

    def cell(self, x: Tensor) -> Tensor:
        """Return the index of the cell of each element, int64, shape of ``x``."""
        return cell(x, self.thresholds)

    def bends(self, bounds: Bounds) -> Tensor:
        return self.cell(bounds.lower) != self.cell(bounds.upper)

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind not in LINES:
            raise unknown(kind)
        return self.constant_lines(bounds)

    def realised(self, cells: Tensor, bounds: Bounds, near: Tensor) -> Tensor:
        r"""Return the pixels nearest to ``near`` that lie in the cells given and in ``bounds``.

        Shapes ``(B, C, ...)``; ``cells`` holds indices between those of the two ends. A cell
        ends with the last number before the next threshold.
        """
        rows = self.thresholds.to(near).expand(near.shape[1], -1)
        edge = rows.new_full((len(rows), 1), torch.inf)
        last = torch.cat([torch.nextafter(rows, -edge.expand_as(rows)), edge], 1)
        first = torch.cat([-edge, rows], 1)
        lower = torch.maximum(_taken(first, cells), bounds.lower)
        upper = torch.minimum(_taken(last, cells), bounds.upper)
        return torch.minimum(torch.maximum(near, lower), upper)


def _counted(x: Tensor, thresholds: Tensor, values: Tensor) -> Tensor:
    """Return ``values[#{t <= x}]`` in operations that exported files know, all of them exact."""
    rows, tail = torch.atleast_2d(thresholds.to(x.dtype)), [1] * (x.dim() - 2)
    reached = x.unsqueeze(-1) >= rows.view(len(rows), *tail, -1)
    place = reached.to(x.dtype).sum(-1).to(torch.int64)
    if values.dim() == 2:
        place = place + (torch.arange(len(values)) * values.shape[1]).to(x.device).view(-1, *tail)
    return values.flatten()[place]


def _taken(rows: Tensor, cells: Tensor) -> Tensor:
    """Return the entries at the cells ``(B, C, ...)``, of ``(T + 1,)`` or a row per channel."""
    if rows.dim() == 1:
        return rows[cells]
    channels = cells.transpose(0, 1)
    return rows.gather(1, channels.flatten(1)).view(channels.shape).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Ends(Affine):
    """``(x + width, x)``, joined along the channels: both ends of the cell whose lower one is x.

    ``width`` broadcasts to an image. The two ends move together: a convolution or linear layer
    that reads them is merged with them where bounds are computed (:mod:`taut.graph.merging`), so
    that intervals know it too.
    """

    name: ClassVar[str] = "cell ends"
    width: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.cat([x + self.width.to(x), x], 1)

    def linear(self, *inputs: Tensor) -> Tensor:
        return torch.cat([inputs[0], inputs[0]], 1)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return torch.cat([radii[0], radii[0]], 1)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        upper, lower = rows.chunk(2, 1)
        return (upper + lower,)

    def constant(self, rows: Tensor) -> Tensor | None:
        return (rows.chunk(2, 1)[0] * self.width.to(rows)).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Beside(Affine):
    """``(x, width)``, joined along the channels: the lower end of a cell, and its constant width.

    What :class:`Ends` becomes before layers whose weights are changed to fit: the upper end of a
    cell then is no second element that moves with the pixel.
    """

    name: ClassVar[str] = "cell width"
    width: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.cat([x, self.width.to(x).expand_as(x)], 1)

    def linear(self, *inputs: Tensor) -> Tensor:
        return torch.cat([inputs[0], torch.zeros_like(inputs[0])], 1)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self.linear(*radii)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows.chunk(2, 1)[0],)

    def constant(self, rows: Tensor) -> Tensor | None:
        return (rows.chunk(2, 1)[1] * self.width.to(rows)).flatten(1).sum(1)

    @property
    def reach(self) -> Reach | None:
        return POINTWISE if self.width.dim() == 0 or self.width.shape[-2:] == (1, 1) else None

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return self.transpose(rows, shapes)


def _steps_cases(generator: torch.Generator) -> list[Case]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).sort(-1).values

    return [
        Case(Steps(draw(3), draw(4)), ((6,),)),
        Case(Steps(draw(1), draw(2)), ((2, 3, 3),)),
        Case(Steps(draw(2, 4), draw(2, 5)), ((2, 3, 2),)),
    ]


def _ends_cases(generator: torch.Generator) -> list[Case]:
    width = torch.rand(2, 1, 1, generator=generator, dtype=torch.float64)
    return [Case(Ends(width), ((2, 3, 2),)), Case(Ends(width[0, 0, 0]), ((4,),))]


register(Entry("steps", "the cell of a grid that a pixel lies in", _steps_cases))


def _beside_cases(generator: torch.Generator) -> list[Case]:
    width = torch.rand(2, 1, 1, generator=generator, dtype=torch.float64)
    return [Case(Beside(width), ((2, 3, 2),)), Case(Beside(width[0, 0, 0]), ((4,),))]


register(Entry("cell ends", "both ends of a pixel's cell", _ends_cases))
register(Entry("cell width", "the lower end of a pixel's cell, beside its width", _beside_cases))
