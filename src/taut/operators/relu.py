"""ReLU, the activation every network of the field has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators.base import Activation, Shape
from taut.operators.forms import Bounds, Interval, Lines
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
        # With the stable sides clamped away one formula serves all three states:
        # dead gives slope 0, alive slope 1, both with intercept 0.
        high, low = bounds.upper.clamp(min=0), bounds.lower.clamp(max=0)
        tiny = torch.finfo(high.dtype).tiny
        # A slope that underflows has lost its digits; zero is sound with the chord held at (u, u).
        slope = F.threshold(high / (high - low).clamp(min=tiny), tiny, 0.0)
        shift = high - high * slope
        if kind == "same-slope":
            return Lines(slope, None, slope, shift)
        if kind in ("tight", "zero"):
            lower = (low.detach() == 0) & (high.detach() > 0)
        elif kind == "adaptive":
            lower = (high + low).detach() > 0
        elif kind == "one":
            lower = high.detach() > 0
        else:
            raise ValueError(f"unknown lines {kind!r}")
        return Lines(lower.to(slope.dtype), None, slope, shift)


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
