"""S-shaped functions: sigmoid and tanh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators.base import Shape
from taut.operators.forms import Bounds
from taut.operators.registry import Case, Entry, Template, Value, builds, register
from taut.operators.smooth import Smooth, elementwise, middle

_STEPS = 3


class SShaped(Smooth):
    r"""A logistic curve :math:`h\,s(rz) + c`, with :math:`s(x) = 1 / (1 + e^{-x})`.

    Convex left of zero, concave right of it. With the chord's slope k over ``[l, u]``:

    tight (zero)
        Below the line through ``(l, f(l))`` of slope ``min(f'(l), k)``, above the one through
        ``(u, f(u))`` of slope ``min(f'(u), k)``: the steepest ones whose values stay between
        ``f(l)`` and ``f(u)``, since the difference quotient from an end is unimodal.
    adaptive (one)
        Where the function is convex (``u <= 0``) or concave (``l >= 0``) the chord and the
        tangent at the midpoint; else below the line through ``(u, f(u))`` that touches at a
        ``d <= 0``, above the one through ``(l, f(l))`` that touches at a ``d >= 0``, and the
        chord where d would lie outside.

    Source: Zhang et al. 2018 (CROWN), section 3.2 for ``adaptive``.
    """

    rate: ClassVar[float]
    height: ClassVar[float]

    def derivative(self, z: Tensor) -> Tensor:
        x = self.rate * z
        return self.rate * self.height * torch.sigmoid(x) * torch.sigmoid(-x)

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        tiny = torch.finfo(slope.dtype).tiny
        product = (slope / (self.rate * self.height)).clamp(tiny, 0.25)  # s(x) s(-x)
        small = 2 * product / (1 + (1 - 4 * product).sqrt())
        x = (torch.log1p(-small) - small.log()) / self.rate
        return x, -x

    def slopes(self, bounds: Bounds, kind: str) -> tuple[Tensor, Tensor]:
        low, high = bounds.lower, bounds.upper
        if kind == "tight":
            chord = self.chord(bounds)
            return (
                torch.minimum(self.derivative(low), chord),
                torch.minimum(self.derivative(high), chord),
            )
        convex, concave = high <= 0, low >= 0
        mixed = ~(convex | concave)
        # At a touching point the slope to it is extreme: it counts as a constant in gradients.
        below = torch.where(mixed, torch.maximum(-self.touching(high), low), low)
        above = torch.where(mixed, torch.minimum(self.touching(-low), high), high)
        tangent = self.derivative(middle(low, high))
        return (
            torch.where(convex, tangent, self.mean_slope(below, high)),
            torch.where(concave, tangent, self.mean_slope(low, above)),
        )

    @torch.no_grad()
    def touching(self, anchor: Tensor) -> Tensor:
        """Return d >= 0 where the line through the curve at ``-anchor`` < 0 is a tangent.

        Newton steps on ``s(d) - s(-a) - s'(d) (d + a) = 0``, kept in a bracket. Any d gives
        sound lines.
        """
        (d,) = elementwise(_touching, self.rate * anchor)
        return d / self.rate

    def close(self, p: Tensor) -> float:
        return float(super().close(p)) / self.rate


def _touching(anchor: Tensor) -> tuple[Tensor]:
    """Return the touching points of the logistic curve itself."""
    a = anchor.clamp(min=torch.finfo(anchor.dtype).eps)
    least, most = torch.zeros_like(a), a
    start = torch.sigmoid(-a)
    d = torch.minimum(a / 2, torch.log1p(a))
    for _ in range(_STEPS):
        right = torch.sigmoid(-d)  # 1 - s(d), exact where s(d) is close to one
        rise, run = right * (1 - right), d + a
        gap = (1 - right - start) - rise * run
        least, most = torch.where(gap < 0, d, least), torch.where(gap < 0, most, d)
        step = d - gap / (rise * (1 - 2 * right) * run)
        inside = (step >= least) & (step <= most)
        d = torch.where(inside, step, middle(least, most))
    return (d,)


@dataclass(frozen=True)
class Sigmoid(SShaped):
    """``1 / (1 + e^-z)``."""

    name: ClassVar[str] = "sigmoid"
    rate: ClassVar[float] = 1.0
    height: ClassVar[float] = 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[0])


@dataclass(frozen=True)
class Tanh(SShaped):
    """The hyperbolic tangent, ``2 s(2z) - 1``."""

    name: ClassVar[str] = "tanh"
    rate: ClassVar[float] = 2.0
    height: ClassVar[float] = 2.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(inputs[0])


@builds(nn.Sigmoid, F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_")
def _sigmoid(shape: Shape, module: nn.Module | None, input: Value) -> Template:
    return Template((input,), Sigmoid)


@builds(nn.Tanh, F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_")
def _tanh(shape: Shape, module: nn.Module | None, input: Value) -> Template:
    return Template((input,), Tanh)


def _cases(make: Callable[[], SShaped]) -> Callable[[torch.Generator], list[Case]]:
    return lambda generator: [Case(make(), ((6,),)), Case(make(), ((2, 3, 1),))]


register(Entry("sigmoid", "1 / (1 + e^-z)", _cases(Sigmoid)))
register(Entry("tanh", "hyperbolic tangent", _cases(Tanh)))
