"""Clips: hardtanh, ReLU6, clamp and hardsigmoid; ramps of outer slope zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import ModelError, UnsupportedOperator
from taut.operators.affine import reader, scale_template
from taut.operators.base import Shape
from taut.operators.ramp import Ramp
from taut.operators.registry import Case, Entry, Inner, Live, Template, Value, builds, register

Limit = Value | Live | float | None


@dataclass(frozen=True, eq=False)
class Clip(Ramp):
    """``min(max(z, low), high)``: the ramp of outer slope zero, with its lines."""

    name: ClassVar[str] = "clip"

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._clip(inputs[0])


def clip(low: Tensor | None, high: Tensor | None) -> Clip:
    """Return the operator, each limit a tensor that broadcasts or ``None``."""
    found = low if low is not None else high
    like = found if found is not None else torch.zeros(())
    if low is not None and high is not None and not bool((low <= high).all()):
        raise ModelError("a clamp has a lower limit above its upper one; exchange them")
    return Clip(like.new_zeros(()), low, high)


def clip_template(x: Value | Inner, low: Limit, high: Limit) -> Template:
    """Return a clip with live limits; infinite ones count as none."""

    def limit(value: Limit, none: float) -> Live | None:
        if isinstance(value, Value):
            raise UnsupportedOperator("with a limit that depends on the input")
        if value is None or value == none:
            return None
        return reader(value)

    least, most = limit(low, -math.inf), limit(high, math.inf)
    return Template(
        (x,),
        lambda: clip(None if least is None else least(), None if most is None else most()),
    )


@builds(nn.Hardtanh, nn.ReLU6)
def _hardtanh_module(shape: Shape, module: nn.Hardtanh, input: Value) -> Template:
    return clip_template(input, float(module.min_val), float(module.max_val))


@builds(F.hardtanh, F.hardtanh_)
def _hardtanh(
    shape: Shape,
    module: None,
    input: Value,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Template:
    return clip_template(input, float(min_val), float(max_val))


@builds(F.relu6)
def _relu6(shape: Shape, module: None, input: Value, inplace: bool = False) -> Template:
    return clip_template(input, 0.0, 6.0)


@builds(torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_")
def _clamp(
    shape: Shape, module: None, input: Value | Live, min: Limit = None, max: Limit = None
) -> Template:
    if not isinstance(input, Value):
        raise UnsupportedOperator("of a constant with a limit that depends on the input")
    if input.shape != shape:
        raise UnsupportedOperator(f"with limits that broadcast {input.shape} to {shape}")
    return clip_template(input, min, max)


@builds(torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_")
def _clamp_min(shape: Shape, module: None, input: Value | Live, min: Limit) -> Template:
    return _clamp(shape, module, input, min, None)


@builds(torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_")
def _clamp_max(shape: Shape, module: None, input: Value | Live, max: Limit) -> Template:
    return _clamp(shape, module, input, None, max)


@builds(nn.Hardsigmoid, F.hardsigmoid)
def _hardsigmoid(
    shape: Shape, module: nn.Module | None, input: Value, inplace: bool = False
) -> Template:
    straight = scale_template(input, reader(1 / 6), reader(0.5))
    return clip_template(Inner(straight, shape), 0.0, 1.0)


def _cases(generator: torch.Generator) -> list[Case]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    low = draw(2, 1, 1)
    return [
        Case(clip(-draw(1).abs(), draw(1).abs()), ((6,),)),
        Case(clip(low, low + draw(2, 3, 3).abs()), ((2, 3, 3),)),
        Case(clip(draw(5), None), ((5,),)),
        Case(clip(None, draw(1)), ((5,),)),
    ]


register(Entry("clip", "clamp, hardtanh, ReLU6, hardsigmoid", _cases))
