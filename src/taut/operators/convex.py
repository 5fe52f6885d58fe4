"""Convex and concave functions: exp, log, sqrt, reciprocal and softplus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Shape
from taut.operators.forms import Bounds
from taut.operators.registry import Case, Entry, Template, Value, builds, register
from taut.operators.smooth import Convex, Spot


@dataclass(frozen=True)
class Exp(Convex):
    """``e^z``; bounds that overflow are infinite."""

    name: ClassVar[str] = "exp"

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].exp()

    def derivative(self, z: Tensor) -> Tensor:
        return z.exp()

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return (_positive(slope).log(),)

    def extreme(self, bounds: Bounds) -> Tensor:
        return bounds.lower


@dataclass(frozen=True)
class Log(Convex):
    """The natural logarithm of ``z > 0``."""

    name: ClassVar[str] = "log"
    concave: ClassVar[bool] = True
    domain = (0.0, math.inf)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].log()

    def derivative(self, z: Tensor) -> Tensor:
        return 1 / z

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return (1 / _positive(slope),)

    def extreme(self, bounds: Bounds) -> Tensor:
        return bounds.upper

    def close(self, p: Tensor) -> Tensor:
        return p * super().close(p)


@dataclass(frozen=True)
class Sqrt(Convex):
    r"""The square root of ``z >= 0``; its derivative at 0 counts as 0 here."""

    name: ClassVar[str] = "sqrt"
    concave: ClassVar[bool] = True
    closed: ClassVar[bool] = True
    domain = (0.0, math.inf)

    def forward(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs  # a root away from zero alone is differentiated
        return torch.where(z == 0, z, torch.where(z == 0, 1.0, z).sqrt())

    def derivative(self, z: Tensor) -> Tensor:
        return torch.where(z == 0, 0.0, 0.5 / torch.where(z == 0, 1.0, z).sqrt())

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return ((0.5 / _positive(slope)).square(),)

    def extreme(self, bounds: Bounds) -> Tensor:
        return bounds.upper

    def chord(self, bounds: Bounds) -> Tensor:
        total = self.forward(bounds.lower) + self.forward(bounds.upper)
        return torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0)


@dataclass(frozen=True)
class Reciprocal(Convex):
    """``1 / z`` for ``z > 0``: convex and falling."""

    name: ClassVar[str] = "reciprocal"
    domain = (0.0, math.inf)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reciprocal()

    def derivative(self, z: Tensor) -> Tensor:
        inverse = z.reciprocal()
        return -inverse * inverse

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return (_positive(-slope).rsqrt(),)

    def extreme(self, bounds: Bounds) -> Tensor:
        return bounds.upper

    def chord(self, bounds: Bounds) -> Tensor:
        return -bounds.lower.reciprocal() * bounds.upper.reciprocal()

    def image(self, bounds: Bounds) -> Bounds:
        self.check(bounds)
        return Bounds(self.forward(bounds.upper), self.forward(bounds.lower))


@dataclass(frozen=True)
class Softplus(Convex):
    r"""``log(1 + e^(beta z)) / beta``, and ``z`` itself where ``beta z > threshold``.

    That switch, PyTorch's, is a step down by :math:`\log(1 + e^{-threshold}) / beta`, 2e-9 as
    a rule. Intervals that hold it are enclosed on both sides of it.
    """

    name: ClassVar[str] = "softplus"
    beta: float = 1.0
    threshold: float = 20.0

    @property
    def _edge(self) -> float:
        return self.threshold / self.beta

    @property
    def _top(self) -> float:
        """The value before the step."""
        return self._edge + math.log1p(math.exp(-self.threshold)) / self.beta

    def _steps(self, bounds: Bounds) -> Tensor:
        low, high = bounds.lower, bounds.upper
        return (low < high) & (low <= self._edge) & (self._edge <= high)

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.softplus(inputs[0], self.beta, self.threshold)

    def derivative(self, z: Tensor) -> Tensor:
        x = self.beta * z
        return torch.where(x > self.threshold, 1.0, torch.sigmoid(x))

    def stationary(self, slope: Tensor) -> tuple[Tensor, ...]:
        return (slope.clamp(0, 1).logit() / self.beta,)

    def extreme(self, bounds: Bounds) -> Tensor:
        return bounds.lower

    def spots(self, bounds: Bounds, slope: Tensor) -> Iterator[Spot]:
        yield from super().spots(bounds, slope)
        steps = self._steps(bounds)
        z = torch.where(steps, self._edge, bounds.lower)
        value = self.forward(bounds.lower)
        for limit in (self._edge, self._top):
            yield Spot(z, torch.where(steps, limit, value))

    def slopes(self, bounds: Bounds, kind: str) -> tuple[Tensor, Tensor]:
        low, up = super().slopes(bounds, kind)
        if kind == "adaptive":
            return low, up
        # The tight lines go through the ends, which the step must not cut.
        low = self._before_the_step(bounds.lower, self._edge, bounds, low)
        return low, self._before_the_step(bounds.upper, self._top, bounds, up)

    def _before_the_step(self, end: Tensor, value: float, bounds: Bounds, slope: Tensor) -> Tensor:
        """Lower a slope to that from an end of the interval to the step, at least to zero."""
        steps = self._steps(bounds) & (end != self._edge)
        run = torch.where(steps, self._edge - end, 1.0)
        quotient = ((value - self.forward(end)) / run).clamp(min=0)
        return torch.where(steps, torch.minimum(slope, quotient), slope).clamp(min=0)

    def image(self, bounds: Bounds) -> Bounds:
        ends, steps = super().image(bounds), self._steps(bounds)
        return Bounds(
            torch.where(steps, ends.lower.clamp(max=self._edge), ends.lower),
            torch.where(steps, ends.upper.clamp(min=self._top), ends.upper),
        )

    def close(self, p: Tensor) -> float:
        return float(super().close(p)) / self.beta


def _positive(slope: Tensor) -> Tensor:
    return slope.clamp(min=torch.finfo(slope.dtype).tiny)


def _plain(make: Callable[[], Convex]) -> Callable[[Shape, nn.Module | None, Value], Template]:
    def build(shape: Shape, module: nn.Module | None, input: Value) -> Template:
        return Template((input,), make)

    return build


builds(torch.exp, torch.exp_, "exp", "exp_")(_plain(Exp))
builds(torch.log, torch.log_, "log", "log_")(_plain(Log))
builds(torch.sqrt, torch.sqrt_, "sqrt", "sqrt_")(_plain(Sqrt))
builds(torch.reciprocal, torch.reciprocal_, "reciprocal", "reciprocal_")(_plain(Reciprocal))


@builds(nn.Softplus)
def _softplus_module(shape: Shape, module: nn.Softplus, input: Value) -> Template:
    return _softplus(shape, None, input, module.beta, module.threshold)


@builds(F.softplus)
def _softplus(
    shape: Shape, module: None, input: Value, beta: float = 1.0, threshold: float = 20.0
) -> Template:
    if not beta > 0:
        raise UnsupportedOperator(f"with beta={beta:g}, which is not positive,")
    return Template((input,), lambda: Softplus(float(beta), float(threshold)))


def _one(make: Callable[[], Convex]) -> Callable[[torch.Generator], list[Case]]:
    return lambda generator: [Case(make(), ((6,),)), Case(make(), ((2, 1, 3),))]


def _softplus_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Softplus(), ((6,),)),
        Case(Softplus(0.5, 20.0), ((2, 3, 1),)),
        Case(Softplus(3.0, 1.0), ((5,),)),
    ]


register(Entry("exp", "e^z", _one(Exp)))
register(Entry("log", "natural logarithm, z > 0", _one(Log)))
register(Entry("sqrt", "square root, z >= 0", _one(Sqrt)))
register(Entry("reciprocal", "1 / z, z > 0", _one(Reciprocal)))
register(Entry("softplus", "log(1 + e^(beta z)) / beta", _softplus_cases))
