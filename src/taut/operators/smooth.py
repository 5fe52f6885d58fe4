r"""Smooth activations: sound lines for any slope, and the line families of convex functions.

A line of slope :math:`k` encloses :math:`f` on :math:`[l, u]` with the intercepts

.. math:: t_L = \min_z f(z) - k z, \qquad t_U = \max_z f(z) - k z

which are reached at ``l``, at ``u`` or where :math:`f'(z) = k`. Every function gives all those
points; they are clamped into the interval, the extreme is taken, and a few units in the last
place go outward. So a family chooses slopes only, and how exactly a tangent point was found
never decides about soundness.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import ModelError
from taut.operators.base import Activation
from taut.operators.forms import LINES, Bounds, Lines, unknown

_ULPS = 4.0
_PIECE = 2**14  # elements that stay in a CPU's cache through many passes


@dataclass(frozen=True, eq=False)
class Spot:
    """A point where a line may touch: ``z``, the function's value there, and by how much a
    better point could still miss it (None: by nothing)."""

    z: Tensor
    value: Tensor
    slack: Tensor | None = None


class Smooth(Activation):
    """An element-wise function with a derivative."""

    closed: ClassVar[bool] = False
    """Whether the lower end of :attr:`domain` itself belongs to it."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """Return the first derivative, differentiable itself."""

    @abstractmethod
    def stationary(self, slope: Tensor) -> Sequence[Tensor]:
        """Return all points where the derivative equals ``slope``; others may be among them."""

    @abstractmethod
    def slopes(self, bounds: Bounds, kind: str) -> tuple[Tensor, Tensor]:
        """Return the slopes of the lower and upper line, ``kind`` "tight" or "adaptive"."""

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        if kind not in LINES:
            raise unknown(kind)
        if kind == "constant":
            return self.constant_lines(bounds)
        self.check(bounds)
        if kind == "same-slope":
            chord = self.chord(bounds)
            return self.enclose(bounds, chord, chord)
        family = "tight" if kind in ("tight", "zero") else "adaptive"
        return self.enclose(bounds, *self.slopes(bounds, family))

    def bends(self, bounds: Bounds) -> Tensor:
        return bounds.lower < bounds.upper

    def image(self, bounds: Bounds) -> Bounds:
        self.check(bounds)
        return super().image(bounds)

    def check(self, bounds: Bounds) -> None:
        """Refuse bounds that leave the domain.

        Raises
        ------
        ModelError
            Some lower bound is outside, or NaN.
        """
        least = self.domain[0]
        if least == -math.inf:
            return
        low = bounds.lower.detach()
        fine = low >= least if self.closed else low > least
        if bool(fine.all()):
            return
        sign = ">=" if self.closed else ">"
        raise ModelError(
            f"the input of {self.name} can reach {float(low.amin()):g}, which is outside its "
            f"domain z {sign} {least:g}; keep it inside, by a ReLU and a constant before it for "
            "example, or bound a smaller region"
        )

    def enclose(self, bounds: Bounds, lower_slope: Tensor, upper_slope: Tensor) -> Lines:
        """Return the closest lines of the slopes given ``(B, *shape)``, any sign.

        A slope that has overflown is replaced by zero.
        """
        parallel = lower_slope is upper_slope
        lower_slope = _finite(lower_slope)
        upper_slope = lower_slope if parallel else _finite(upper_slope)
        low, high = self.extremes(bounds, lower_slope)
        if not parallel:
            _, high = self.extremes(bounds, upper_slope)
        return Lines(lower_slope, low, upper_slope, high)

    def extremes(self, bounds: Bounds, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest ``f(z) - slope * z``, both biased outward."""
        low = high = None
        for spot in self.spots(bounds, slope):
            product = slope * spot.z
            rest = spot.value - product
            scale = (spot.value.abs() + product.abs() + self.noise(spot.z)).detach()
            bias = _ULPS * torch.finfo(rest.dtype).eps * scale
            if spot.slack is not None:
                bias = bias + spot.slack
            below, above = rest - bias, rest + bias
            low = below if low is None else torch.minimum(low, below)
            high = above if high is None else torch.maximum(high, above)
        assert low is not None
        assert high is not None
        # Where a value or a product overflows the difference is NaN: nothing is known then.
        return (
            torch.where(low.isnan(), -math.inf, low),
            torch.where(high.isnan(), math.inf, high),
        )

    def spots(self, bounds: Bounds, slope: Tensor) -> Iterator[Spot]:
        """Return points of the interval among which ``f(z) - slope * z`` is extreme."""
        for z in (bounds.lower, bounds.upper):
            yield Spot(z, self.forward(z))
        with torch.no_grad():
            found = self.stationary(slope)
        for z in found:  # clamped with gradients: one that is outside is an end, not a constant
            at = z.clamp(bounds.lower, bounds.upper)
            yield Spot(at, self.forward(at))

    def noise(self, z: Tensor) -> Tensor:
        """Return a magnitude whose rounding errors the evaluation has besides the value's own."""
        return torch.zeros_like(z)

    def chord(self, bounds: Bounds) -> Tensor:
        """Return the slope of the chord over the whole interval."""
        return self.mean_slope(bounds.lower, bounds.upper)

    def mean_slope(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the slope of the chord from p to q >= p, at the midpoint where they are close."""
        width = q - p
        close = width <= self.close(p)
        quotient = (self.forward(q) - self.forward(p)) / torch.where(close, 1.0, width)
        return torch.where(close, self.derivative(middle(p, q)), quotient)

    def close(self, p: Tensor) -> Tensor | float:
        """Return below which width a difference quotient from p on is mostly rounding."""
        return float(torch.finfo(p.dtype).eps ** (1 / 3))


class Convex(Smooth):
    """A convex function, or a concave one.

    ==============  ===============================================  =======================
    lines           on the side where it bends away                  on the other side
    ==============  ===============================================  =======================
    tight, zero     tangent at the point of the interval where the   chord
                    function is least (convex) or greatest (concave)
    adaptive, one   tangent at the midpoint                          chord
    ==============  ===============================================  =======================
    """

    concave: ClassVar[bool] = False

    @abstractmethod
    def extreme(self, bounds: Bounds) -> Tensor:
        """Return where in the interval the function is least (greatest, if concave)."""

    def slopes(self, bounds: Bounds, kind: str) -> tuple[Tensor, Tensor]:
        at = middle(bounds.lower, bounds.upper) if kind == "adaptive" else self.extreme(bounds)
        tangent, chord = self.derivative(at), self.chord(bounds)
        return (chord, tangent) if self.concave else (tangent, chord)


def elementwise(function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> tuple[Tensor, ...]:
    """Apply a long element-wise computation piece by piece, each piece to its end."""
    flat = x.reshape(-1)
    size = _PIECE if x.device.type == "cpu" else max(1, flat.numel())
    parts = [function(part) for part in flat.split(size)]
    return tuple(torch.cat(found).view(x.shape) for found in zip(*parts, strict=True))


def middle(p: Tensor, q: Tensor) -> Tensor:
    """Return the midpoint, without overflow."""
    return torch.lerp(p, q, 0.5)


def _finite(slope: Tensor) -> Tensor:
    return torch.where(torch.isfinite(slope), slope, 0.0)
