"""ReLU, the activation every network of the field has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators.base import Activation, Shape
from taut.operators.cache import pieces
from taut.operators.forms import Bounds, Interval, Lines, unknown
from taut.operators.registry import Case, Entry, Template, Value, builds, register

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class _IntervalReLU(torch.autograd.Function):
    """``[c - r, c + r] -> [relu(c - r), relu(c + r)]`` in midpoint form.

    Written out because it is the hot spot of interval training: composed from
    autograd's own pieces it keeps several times the memory and makes twice the
    passes. Only the result is kept, from which both ends' signs are read again.
    """

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        # With h = relu(c + r) / 2 the new radius is min(r, h) in all three states, and
        # the new midpoint 2 h minus that: four passes instead of six.
        half = torch.lerp(center, radius, 0.5).relu_()
        spread = torch.minimum(radius, half)
        middle = torch.lerp(spread, half, 2.0, out=half)
        ctx.save_for_backward(middle, spread)
        return middle, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        by_center, by_radius = grads
        middle, spread = ctx.saved_tensors
        high, low = by_center + by_radius, by_center - by_radius
        # Both ends are >= 0: the upper one is positive where the midpoint is.
        _threshold_backward(high, middle, 0, grad_input=high)
        _threshold_backward(low, middle - spread, 0, grad_input=low)
        center = low.lerp_(high, 0.5)
        return center, high.sub_(center)


class _Chord(torch.autograd.Function):
    """Slope and intercept of the upper line on ``[l, u]``, for all three states at once.

    With the stable sides clamped away one formula serves them: dead gives slope 0, alive
    slope 1, both with intercept 0. The chord is held at (u, u), so that rounding of the
    slope does not lower it there; a slope that underflows has lost its digits and is zero.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        slope, shift = torch.empty_like(upper), torch.empty_like(upper)
        tiny = torch.finfo(upper.dtype).tiny
        for part in pieces(upper):
            high = upper[part].clamp(min=0)
            out = torch.div(high, _width(lower[part], high), out=slope[part])
            torch.threshold_(out, tiny, 0.0)
            torch.addcmul(high, high, out, value=-1, out=shift[part])
        ctx.save_for_backward(lower, upper, slope)
        return slope, shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        # With w = u - l: ds/du = -l / w^2, ds/dl = u / w^2, and t = u (1 - s).
        by_slope, by_shift = grads
        lower, upper, slope = ctx.saved_tensors
        to_lower, to_upper = torch.empty_like(lower), torch.empty_like(upper)
        for part in pieces(upper):
            u, l, s, shift = upper[part], lower[part], slope[part], by_shift[part]  # noqa: E741
            common = torch.addcmul(by_slope[part], u, shift, value=-1)
            common.div_(_width(l, u.clamp(min=0)))
            low = torch.mul(s, common, out=to_lower[part])
            below = l.neg()
            _threshold_backward(low, below, 0, grad_input=low)  # zero where l >= 0
            _threshold_backward(low, u, 0, grad_input=low)  # or u <= 0, as for the upper end
            common.add_(shift)
            up = torch.addcmul(common, common, s, value=-1, out=to_upper[part])
            _threshold_backward(up, u, 0, grad_input=up)
            _threshold_backward(up, below, 0, grad_input=up)
        return to_lower, to_upper


def _width(lower: Tensor, high: Tensor) -> Tensor:
    """Return the width of an interval whose stable side is cut off, never 0."""
    return torch.sub(high, lower.clamp(max=0)).clamp_(min=torch.finfo(high.dtype).tiny)


@dataclass(frozen=True)
class ReLU(Activation):
    r"""``max(z, 0)``.

    Lines on an unstable interval ``l < 0 < u``: the upper one is the chord
    :math:`\frac{u}{u-l}(z-l)`; the lower one is ``0`` (tight, zero), ``z`` (one), or ``z`` when
    ``u > -l`` and ``0`` otherwise (adaptive, the smaller area).
    Source: Zhang et al. 2018 (CROWN); Lyu et al. 2021, section 4.
    """

    name: ClassVar[str] = "relu"

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.relu(inputs[0])

    def interval(self, *inputs: Interval) -> Interval:
        (z,) = inputs
        center, radius = _IntervalReLU.apply(z.center, z.radius)  # type: ignore[no-untyped-call]
        return Interval(center, radius)

    def interval_in_place(self, z: Interval) -> Interval:
        half = z.center.lerp_(z.radius, 0.5).relu_()
        spread = torch.minimum(z.radius, half, out=z.radius)
        return Interval(torch.lerp(spread, half, 2.0, out=half), spread)

    def bends(self, bounds: Bounds) -> Tensor:
        return bounds.unstable

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind == "constant":
            return self.constant_lines(bounds)
        slope, shift = _Chord.apply(bounds.lower, bounds.upper)  # type: ignore[no-untyped-call]
        if kind == "same-slope":
            return Lines(slope, None, slope, shift)
        lower, upper = bounds.lower.detach(), bounds.upper.detach()
        one = torch.empty_like(slope, requires_grad=False)
        if kind in ("tight", "zero"):
            torch.logical_and(lower >= 0, upper > 0, out=one)
        elif kind == "adaptive":
            torch.gt(upper, lower.neg(), out=one)
        elif kind == "one":
            torch.gt(upper, 0, out=one)
        else:
            raise unknown(kind)
        return Lines(one, None, slope, shift)


@builds(nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")
def _relu(
    shape: Shape,
    module: nn.Module | None,
    input: Value,
    inplace: bool = False,
) -> Template:
    return Template((input,), ReLU)


def _cases(generator: torch.Generator) -> list[Case]:
    return [Case(ReLU(), ((6,),)), Case(ReLU(), ((2, 3, 3),))]


register(Entry("relu", "max(z, 0)", _cases))
