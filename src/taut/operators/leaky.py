"""Two slopes that meet at zero: leaky ReLU, PReLU and the absolute value."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators.base import Shape
from taut.operators.forms import Bounds, Lines, unknown
from taut.operators.piecewise import PiecewiseLinear
from taut.operators.registry import Case, Entry, Live, Template, Value, builds, register


@dataclass(frozen=True, eq=False)
class LeakyReLU(PiecewiseLinear):
    r"""``z`` where z > 0, else ``slope * z``; ``slope`` is a number or broadcasts to ``(*shape)``.

    Lines on ``l < 0 < u`` for a slope :math:`\eta \le 1` (convex): the upper one is the chord
    :math:`\frac{u - \eta l}{u - l} z + \frac{(\eta - 1) l u}{u - l}`; the lower one is
    :math:`\eta z` (zero), ``z`` (one), ``z`` when ``u > -l`` and :math:`\eta z` otherwise
    (adaptive, the smaller area; a tie takes :math:`\eta z`), or :math:`\max(\eta, 0) z` (tight).
    For :math:`\eta > 1` (concave) the lower one is the chord, and the upper one has the free
    slope: 1 (zero, tight), :math:`\eta` (one), and by the same rule (adaptive).
    Source: Zhang et al. 2018 (CROWN); Lyu et al. 2021, table 4.
    """

    name: ClassVar[str] = "leaky-relu"
    slope: float | Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        if isinstance(self.slope, Tensor):
            return torch.where(z > 0, z, self.slope.to(z) * z)
        return F.leaky_relu(z, self.slope)

    def knees(self, like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_zeros(()),)

    def bends(self, bounds: Bounds) -> Tensor:
        return bounds.unstable

    def image(self, bounds: Bounds) -> Bounds:
        if not isinstance(self.slope, Tensor) and self.slope >= 0:
            return super().image(bounds)
        # A negative slope falls left of zero: the least value is at the point next to zero.
        low, high = bounds.lower, bounds.upper
        rises = self._slope(low) >= 0
        least = torch.where(rises, low, torch.zeros_like(low).clamp(low, high))
        return Bounds(self.forward(least), torch.maximum(self.forward(low), self.forward(high)))

    def _slope(self, like: Tensor) -> Tensor:
        if isinstance(self.slope, Tensor):
            return self.slope.to(like).expand_as(like)
        return torch.full_like(like, self.slope)

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind == "constant":
            return self.constant_lines(bounds)
        high, low = bounds.upper.clamp(min=0), bounds.lower.clamp(max=0)
        slope = self._slope(high)
        # The share of the interval right of zero: 0 and 1 in the stable states, which makes
        # the chord their own line.
        share = high / (high - low).clamp(min=torch.finfo(high.dtype).tiny)
        chord = torch.lerp(slope, torch.ones_like(slope), share)
        if kind == "same-slope":
            return self.enclose(bounds, chord, chord)
        if kind == "zero":
            free = slope.clamp(max=1)
        elif kind == "one":
            free = slope.clamp(min=1)
        elif kind == "tight":
            free = slope.clamp(0, 1)
        elif kind == "adaptive":
            free = torch.where(high > -low, 1.0, slope)
        else:
            raise unknown(kind)
        free, convex = torch.where(bounds.unstable, free, chord), slope <= 1
        return self.enclose(
            bounds, torch.where(convex, free, chord), torch.where(convex, chord, free)
        )


@dataclass(frozen=True, eq=False)
class Abs(LeakyReLU):
    """``|z|``, the leaky ReLU of slope -1."""

    name: ClassVar[str] = "abs"
    slope: float | Tensor = -1.0


@builds(nn.LeakyReLU)
def _leaky_relu_module(shape: Shape, module: nn.LeakyReLU, input: Value) -> Template:
    return Template((input,), lambda: LeakyReLU(float(module.negative_slope)))


@builds(F.leaky_relu, F.leaky_relu_)
def _leaky_relu(
    shape: Shape,
    module: None,
    input: Value,
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Template:
    return Template((input,), lambda: LeakyReLU(float(negative_slope)))


@builds(nn.PReLU)
def _prelu_module(shape: Shape, module: nn.PReLU, input: Value) -> Template:
    return _prelu(shape, None, input, lambda: module.weight)


@builds(F.prelu, "prelu")
def _prelu(shape: Shape, module: None, input: Value, weight: Live) -> Template:
    def make() -> LeakyReLU:
        found = weight()  # one slope, or one for each channel
        size = () if found.numel() == 1 else (found.numel(), *[1] * (len(shape) - 1))
        return LeakyReLU(found.reshape(size))

    return Template((input,), make)


@builds(torch.abs, torch.abs_, torch.absolute, operator.abs, "abs", "abs_", "absolute")
def _abs(shape: Shape, module: None, input: Value) -> Template:
    return Template((input,), Abs)


def _leaky_cases(generator: torch.Generator) -> list[Case]:
    slopes = torch.randn(3, 1, 1, generator=generator, dtype=torch.float64)
    return [
        Case(LeakyReLU(0.01), ((6,),)),
        Case(LeakyReLU(0.6), ((2, 3, 3),)),
        Case(LeakyReLU(-0.5), ((5,),)),
        Case(LeakyReLU(2.0), ((5,),)),
        Case(LeakyReLU(slopes), ((3, 2, 2),)),
    ]


def _abs_cases(generator: torch.Generator) -> list[Case]:
    return [Case(Abs(), ((6,),)), Case(Abs(), ((2, 2, 3),))]


register(Entry("leaky-relu", "max(z, 0) + slope * min(z, 0), PReLU too", _leaky_cases))
register(Entry("abs", "|z|", _abs_cases))
