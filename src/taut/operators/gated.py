r"""Gated identities :math:`z\,\Phi(z)` with :math:`\Phi(z) + \Phi(-z) = 1`: GELU, SiLU, hardswish.

They fall to one minimum left of zero and rise from there; they are convex between two bends
:math:`\pm w` and concave outside. :math:`f(z) - z/2` is even.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Shape
from taut.operators.forms import Bounds
from taut.operators.registry import Case, Entry, Template, Value, builds, register
from taut.operators.smooth import Smooth, Spot, elementwise, middle

_NODES = 256
_STEPS = 2


class Gated(Smooth):
    r"""The lines of the family.

    With the chord's slope k and the minimum at :math:`z_0`:

    tight (zero)
        Below, through ``(l, f(l))`` with ``min(f'(l), k)`` where the function rises
        (:math:`l \ge z_0`), through ``(u, f(u))`` with ``max(f'(u), k)`` where it falls
        (:math:`u \le z_0`), else the constant minimum. Above, through the higher end: with
        ``min(f'(u), k)`` through the upper, with ``max(f'(l), k)`` through the lower one. No
        other lines that stay within the range are steeper, since the difference quotient from
        that end has no minimum inside.
    adaptive (one)
        Of these, the chord's slope and the slope at the midpoint, the one of the smallest area,
        for each line and element.
    """

    least_at: ClassVar[float]
    bend: ClassVar[float]
    far: ClassVar[float]
    """Beyond it the derivative is 1 to rounding."""

    @abstractmethod
    def second(self, z: Tensor) -> Tensor:
        """Return the second derivative."""

    def image(self, bounds: Bounds) -> Bounds:
        low, high = bounds.lower, bounds.upper
        least = torch.full_like(low, self.least_at).clamp(low, high)
        return Bounds(self.forward(least), torch.maximum(self.forward(low), self.forward(high)))

    def noise(self, z: Tensor) -> Tensor:
        return z.abs()  # far left, z times a difference of ones is left

    def slopes(self, bounds: Bounds, kind: str) -> tuple[Tensor, Tensor]:
        chord = self.chord(bounds)
        low, up = self._tight(bounds, chord)
        if kind == "tight":
            return low, up
        center = middle(bounds.lower, bounds.upper)
        candidates = (low, up, chord, self.derivative(center))
        with torch.no_grad():  # the area between a line and the function, up to what is common
            ends = [self.extremes(bounds, slope) for slope in candidates]
            pairs = list(zip(candidates, ends, strict=True))
            below = torch.stack([k * center + t for k, (t, _) in pairs]).argmax(0)
            above = torch.stack([k * center + t for k, (_, t) in pairs]).argmin(0)
        stack = torch.stack(candidates)
        return (
            stack.gather(0, below.unsqueeze(0)).squeeze(0),
            stack.gather(0, above.unsqueeze(0)).squeeze(0),
        )

    def _tight(self, bounds: Bounds, chord: Tensor) -> tuple[Tensor, Tensor]:
        low, high = bounds.lower, bounds.upper
        first, last = self.derivative(low), self.derivative(high)
        rising = torch.minimum(first, chord).clamp(min=0)
        falling = torch.maximum(last, chord).clamp(max=0)
        below = torch.where(
            low >= self.least_at, rising, torch.where(high <= self.least_at, falling, 0.0)
        )
        above = torch.where(
            self.forward(high) >= self.forward(low),
            torch.minimum(last, chord).clamp(min=0),
            torch.maximum(first, chord).clamp(max=0),
        )
        return below, above

    def spots(self, bounds: Bounds, slope: Tensor) -> Iterator[Spot]:
        for z in (bounds.lower, bounds.upper):
            yield Spot(z, self.forward(z))
        with torch.no_grad():
            found = self.tangents(slope)
        for z, slack in found:
            at = z.clamp(bounds.lower, bounds.upper)
            yield Spot(at, self.forward(at), slack)

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return tuple(z for z, _ in self.tangents(slope))

    def tangents(self, slope: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the points of derivative ``slope``, with how far ``f - slope z`` may be off.

        The derivative less 1/2 is odd: all points lie on the side of the sign of
        ``slope - 1/2``, one before and one behind the bend.
        """
        share = torch.linspace(0, 1, _NODES + 1, dtype=torch.float64, device=slope.device)
        before = self.bend * (1 - (1 - share).square())  # close together at the bend
        behind = self.bend + (self.far - self.bend) * share.square()

        def solve(part: Tensor) -> tuple[Tensor, ...]:
            height, side = (part - 0.5).abs(), torch.sign(part - 0.5)
            first, first_slack = self._solve(height, before, 1.0)
            last, last_slack = self._solve(height, behind, -1.0)
            return side * first, first_slack, side * last, last_slack

        first, first_slack, last, last_slack = elementwise(solve, slope)
        return [(first, first_slack), (last, last_slack)]

    def _solve(self, height: Tensor, nodes: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        """Solve ``f'(z) - 1/2 = height`` on a branch where ``sign`` times it rises.

        A table gives the bracket, Newton steps kept in it the point. Within the bracket the
        derivative is off by no more than at the point found, which gives the slack.
        """
        table = (sign * (self.derivative(nodes) - 0.5)).to(height)
        nodes, target = nodes.to(height), sign * height
        cell = torch.searchsorted(table, target.contiguous()).clamp(1, _NODES)
        least, most = nodes[cell - 1], nodes[cell]
        start, end = table[cell - 1], table[cell]
        share = (target - start) / torch.where(end > start, end - start, 1.0)
        z = torch.lerp(least, most, share.clamp(0, 1))
        for _ in range(_STEPS):
            gap = sign * (self.derivative(z) - 0.5) - target
            least, most = torch.where(gap < 0, z, least), torch.where(gap < 0, most, z)
            step = z - gap / (sign * self.second(z))
            inside = (step >= least) & (step <= most)
            z = torch.where(inside, step, middle(least, most))
        off = (self.derivative(z) - 0.5 - height).abs() * torch.maximum(z - least, most - z)
        exists = (target >= table[0]) & (target <= table[-1])
        return z, torch.where(exists, off, 0.0)


@dataclass(frozen=True)
class GELU(Gated):
    r""":math:`z\,\Phi(z)` with the normal distribution function."""

    name: ClassVar[str] = "gelu"
    least_at: ClassVar[float] = -0.7517915246935645
    bend: ClassVar[float] = math.sqrt(2)
    far: ClassVar[float] = 9.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.gelu(inputs[0])

    def derivative(self, z: Tensor) -> Tensor:
        return 0.5 + 0.5 * torch.erf(z / math.sqrt(2)) + self._limited(z) * self._density(z)

    def second(self, z: Tensor) -> Tensor:
        z = self._limited(z)
        return (2 - z * z) * self._density(z)

    def _density(self, z: Tensor) -> Tensor:
        return torch.exp(-self._limited(z).square() / 2) / math.sqrt(2 * math.pi)

    @staticmethod
    def _limited(z: Tensor) -> Tensor:
        return z.clamp(-40, 40)  # where the density is 0 to rounding; no overflow beyond


@dataclass(frozen=True)
class TanhGELU(Gated):
    r""":math:`\frac z2 (1 + \tanh(\sqrt{2/\pi}\,(z + 0.044715\,z^3)))`, GELU's approximation."""

    name: ClassVar[str] = "gelu-tanh"
    least_at: ClassVar[float] = -0.7524614220710163
    bend: ClassVar[float] = 1.4185040087908283
    far: ClassVar[float] = 9.0

    _CUBE: ClassVar[float] = 0.044715

    def _inner(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the argument of tanh with its first and second derivative."""
        z, scale = z.clamp(-self.far, self.far), math.sqrt(2 / math.pi)  # beyond, tanh is +-1
        return (
            scale * (z + self._CUBE * z * z * z),
            scale * (1 + 3 * self._CUBE * z * z),
            scale * 6 * self._CUBE * z,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        return 0.5 * z * (1 + torch.tanh(self._inner(z)[0]))

    def derivative(self, z: Tensor) -> Tensor:
        p, first, _ = self._inner(z)
        t = torch.tanh(p)
        return 0.5 * (1 + t) + 0.5 * z.clamp(-self.far, self.far) * (1 - t * t) * first

    def second(self, z: Tensor) -> Tensor:
        p, first, curve = self._inner(z)
        t = torch.tanh(p)
        rise = 1 - t * t
        return rise * first + 0.5 * z * (rise * curve - 2 * t * rise * first * first)


@dataclass(frozen=True)
class SiLU(Gated):
    r""":math:`z\,s(z)` with the sigmoid s; also called swish."""

    name: ClassVar[str] = "silu"
    least_at: ClassVar[float] = -1.2784645427610737
    bend: ClassVar[float] = 2.3993572805154675
    far: ClassVar[float] = 44.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.silu(inputs[0])

    def derivative(self, z: Tensor) -> Tensor:
        s, other = torch.sigmoid(z), torch.sigmoid(-z)
        # Beyond far the product is 0; a huge z would make its gradient 0 times infinity.
        return s + z.clamp(-self.far, self.far) * (s * other)

    def second(self, z: Tensor) -> Tensor:
        s, other = torch.sigmoid(z), torch.sigmoid(-z)
        return s * other * (2 + z * (other - s))


@dataclass(frozen=True)
class HardSwish(Gated):
    r""":math:`z\,\mathrm{clip}(z/6 + 1/2, 0, 1)`: a parabola between -3 and 3."""

    name: ClassVar[str] = "hardswish"
    least_at: ClassVar[float] = -1.5
    bend: ClassVar[float] = 3.0
    far: ClassVar[float] = 3.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.hardswish(inputs[0])

    def bends(self, bounds: Bounds) -> Tensor:
        curved = (bounds.lower < self.bend) & (bounds.upper > -self.bend)
        return super().bends(bounds) & curved

    def derivative(self, z: Tensor) -> Tensor:
        parabola = z.clamp(-self.bend, self.bend) / 3 + 0.5
        return torch.where(z <= -self.bend, 0.0, torch.where(z >= self.bend, 1.0, parabola))

    def second(self, z: Tensor) -> Tensor:
        return torch.where(z.abs() < self.bend, 1 / 3, torch.zeros_like(z))

    def tangents(self, slope: Tensor) -> list[tuple[Tensor, Tensor]]:
        bend, exact = torch.full_like(slope, self.bend), torch.zeros_like(slope)
        inner = (3 * (slope - 0.5)).clamp(-self.bend, self.bend)
        return [(inner, exact), (bend, exact), (-bend, exact)]


@builds(nn.GELU)
def _gelu_module(shape: Shape, module: nn.GELU, input: Value) -> Template:
    return _gelu(shape, None, input, module.approximate)


@builds(F.gelu)
def _gelu(shape: Shape, module: None, input: Value, approximate: str = "none") -> Template:
    if approximate not in ("none", "tanh"):
        raise UnsupportedOperator(f"with approximate={approximate!r}")
    return Template((input,), GELU if approximate == "none" else TanhGELU)


@builds(nn.SiLU, F.silu)
def _silu(shape: Shape, module: nn.Module | None, input: Value, inplace: bool = False) -> Template:
    return Template((input,), SiLU)


@builds(nn.Hardswish, F.hardswish)
def _hardswish(
    shape: Shape, module: nn.Module | None, input: Value, inplace: bool = False
) -> Template:
    return Template((input,), HardSwish)


def _gelu_cases(generator: torch.Generator) -> list[Case]:
    return [Case(GELU(), ((6,),)), Case(GELU(), ((2, 3, 1),))]


def _tanh_gelu_cases(generator: torch.Generator) -> list[Case]:
    return [Case(TanhGELU(), ((6,),))]


def _silu_cases(generator: torch.Generator) -> list[Case]:
    return [Case(SiLU(), ((6,),)), Case(SiLU(), ((2, 3, 1),))]


def _hardswish_cases(generator: torch.Generator) -> list[Case]:
    return [Case(HardSwish(), ((6,),)), Case(HardSwish(), ((2, 3, 1),))]


register(Entry("gelu", "z times the normal distribution function", _gelu_cases))
register(Entry("gelu-tanh", "GELU approximated by tanh", _tanh_gelu_cases))
register(Entry("silu", "z / (1 + e^-z), swish", _silu_cases))
register(Entry("hardswish", "z clip(z/6 + 1/2, 0, 1)", _hardswish_cases))
