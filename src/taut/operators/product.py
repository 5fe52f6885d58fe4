"""Products of two tensors that depend on the input, and squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from taut.operators.base import Activation
from taut.operators.forms import LINES, Bounds, Lines, unknown
from taut.operators.registry import Case, Entry, register


class _Plane(NamedTuple):
    """``by_x x + by_y y + shift``."""

    by_x: Tensor
    by_y: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Product(Activation):
    r"""``x y`` for the two elements along ``axis``, which has length two.

    Over the box :math:`[l_x, u_x] \times [l_y, u_y]` with midpoints c and radii r

    .. math::

        \max(l_y x + l_x y - l_x l_y,\; u_y x + u_x y - u_x u_y) \le x y
        \le \min(u_y x + l_x y - l_x u_y,\; l_y x + u_x y - u_x l_y)

    The two planes of a side leave the same gap at the midpoint, :math:`r_x r_y`. ``zero``
    takes the first of each side and ``one`` the second; ``adaptive`` the one whose worst
    corner is better, ``tight`` that one where it dominates the constant and the constant
    elsewhere; ``same-slope`` is :math:`c_y x + c_x y - c_x c_y \mp r_x r_y`.
    Source: McCormick 1976.
    """

    name: ClassVar[str] = "product"
    axis: int = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = inputs[0].unbind(self.axis + 1)
        return x * y

    def _corners(self, bounds: Bounds) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the ends ``l_x, l_y, u_x, u_y``."""
        low, high = bounds.lower.unbind(self.axis + 1), bounds.upper.unbind(self.axis + 1)
        return low[0], low[1], high[0], high[1]

    def image(self, bounds: Bounds) -> Bounds:
        lx, ly, ux, uy = self._corners(bounds)
        values = torch.stack([lx * ly, lx * uy, ux * ly, ux * uy])
        return Bounds(values.amin(0), values.amax(0))

    def bends(self, bounds: Bounds) -> Tensor:
        wide = (bounds.upper > bounds.lower).all(self.axis + 1, keepdim=True)
        return wide.expand_as(bounds.lower)

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind not in LINES:
            raise unknown(kind)
        if kind == "constant":
            return self.constant_lines(bounds)
        lx, ly, ux, uy = self._corners(bounds)
        if kind == "same-slope":
            cx, cy = (lx + ux) / 2, (ly + uy) / 2
            gap = (ux - lx) * (uy - ly) / 4
            return self._lines(_Plane(cy, cx, -cx * cy - gap), _Plane(cy, cx, gap - cx * cy))
        first = _Plane(ly, lx, -lx * ly), _Plane(uy, lx, -lx * uy)
        second = _Plane(uy, ux, -ux * uy), _Plane(ly, ux, -ux * ly)
        if kind == "zero":
            return self._lines(*first)
        if kind == "one":
            return self._lines(*second)
        # A plane is exact at three corners and misses the fourth by four times the gap.
        lower = _choose(ux * uy >= lx * ly, first[0], second[0])
        upper = _choose(ux * ly <= lx * uy, first[1], second[1])
        if kind == "tight":
            miss, ends = (ux - lx) * (uy - ly), self.image(bounds)
            worst = torch.maximum(ux * uy, lx * ly) - miss
            lower = _choose(worst >= ends.lower, lower, _level(ends.lower))
            worst = torch.minimum(ux * ly, lx * uy) + miss
            upper = _choose(worst <= ends.upper, upper, _level(ends.upper))
        return self._lines(lower, upper)

    def _lines(self, lower: _Plane, upper: _Plane) -> Lines:
        axis = self.axis + 1
        return Lines(
            torch.stack([lower.by_x, lower.by_y], axis),
            lower.shift,
            torch.stack([upper.by_x, upper.by_y], axis),
            upper.shift,
        )


def _choose(first: Tensor, a: _Plane, b: _Plane) -> _Plane:
    return _Plane(*(torch.where(first, p, q) for p, q in zip(a, b, strict=True)))


def _level(value: Tensor) -> _Plane:
    flat = torch.zeros_like(value)
    return _Plane(flat, flat, value)


@dataclass(frozen=True)
class Square(Activation):
    r"""``z^2``.

    The upper line is the chord :math:`(l + u) z - l u`, the lower one the tangent
    :math:`2 t z - t^2` at a point t of the interval: its midpoint (adaptive, same-slope), the
    point nearest to zero (tight), ``l`` (zero) or ``u`` (one).
    """

    name: ClassVar[str] = "square"

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].square()

    def image(self, bounds: Bounds) -> Bounds:
        near = _nearest_to_zero(bounds)
        return Bounds(near.square(), torch.maximum(bounds.lower.square(), bounds.upper.square()))

    def bends(self, bounds: Bounds) -> Tensor:
        return bounds.upper > bounds.lower

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        low, high = bounds.lower, bounds.upper
        if kind == "constant":
            return self.constant_lines(bounds)
        if kind in ("adaptive", "same-slope"):
            at = (low + high) / 2
        elif kind == "tight":
            at = _nearest_to_zero(bounds)
        elif kind == "zero":
            at = low
        elif kind == "one":
            at = high
        else:
            raise unknown(kind)
        chord = low + high
        slope = chord if kind == "same-slope" else 2 * at
        return Lines(slope, -at.square(), chord, -low * high)


def _nearest_to_zero(bounds: Bounds) -> Tensor:
    return bounds.lower.clamp(min=0) + bounds.upper.clamp(max=0)


def _product_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Product(0), ((2, 5),)),
        Case(Product(1), ((3, 2),)),
    ]


def _square_cases(generator: torch.Generator) -> list[Case]:
    return [Case(Square(), ((6,),)), Case(Square(), ((2, 3, 2),))]


register(Entry("product", "x y of two tensors that depend on the input", _product_cases))
register(Entry("square", "z^2", _square_cases))
