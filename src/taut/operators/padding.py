"""Padding, and with negative widths cropping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Affine, Reach, Shape
from taut.operators.combine import moved
from taut.operators.registry import Case, Entry, Template, Value, builds, register


@dataclass(frozen=True)
class Pad(Affine):
    """Constants around the elements; a negative width crops.

    ``widths`` are (before, after) for one axis after the other, beginning with the
    last one, as ``F.pad`` has them; ``value`` is the constant.
    """

    name: ClassVar[str] = "pad"
    widths: tuple[int, ...]
    value: float = 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.widths, value=self.value)

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.widths)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return F.pad(radii[0], self.widths)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (F.pad(rows, [-width for width in self.widths]),)

    def constant(self, rows: Tensor) -> Tensor | None:
        if self.value == 0.0:
            return None
        added = [max(width, 0) for width in self.widths]
        inside = F.pad(torch.zeros_like(rows[:1]), [-width for width in added])
        return (rows * F.pad(inside, added, value=self.value)).flatten(1).sum(1)

    @property
    def reach(self) -> Reach | None:
        if self.value != 0.0:
            return None  # what a window adds would depend on where it lies
        left, top = self.widths[0], self.widths[2] if len(self.widths) > 2 else 0
        return Reach((1, 1), (top, left), (1, 1))

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (F.pad(rows, [0, 0, 0, 0, *(-width for width in self.widths[4:])]),)


@builds(F.pad)
def _pad(
    shape: Shape,
    module: None,
    input: Value,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Template:
    widths = tuple(int(width) for width in pad)
    if any(widths[2 * len(input.shape) :]):
        raise UnsupportedOperator("of the batch axis")
    widths = widths[: 2 * len(input.shape)]
    if mode == "constant":
        filled = 0.0 if value is None else float(value)
        if not math.isfinite(filled):
            raise UnsupportedOperator(f"with value={filled}; let max_pool2d pad by itself")
        return Template((input,), lambda: Pad(widths, filled))
    if mode not in ("reflect", "replicate"):
        raise UnsupportedOperator(f"with mode={mode!r}; use constant, reflect or replicate")
    return moved(input, F.pad, (widths, mode))


@builds(nn.ZeroPad1d, nn.ZeroPad2d)
def _zero_pad(shape: Shape, module: nn.ZeroPad1d | nn.ZeroPad2d, input: Value) -> Template:
    return _pad(shape, None, input, module.padding)


@builds(nn.ConstantPad1d, nn.ConstantPad2d)
def _constant_pad(
    shape: Shape, module: nn.ConstantPad1d | nn.ConstantPad2d, input: Value
) -> Template:
    return _pad(shape, None, input, module.padding, value=module.value)


@builds(nn.ReflectionPad1d, nn.ReflectionPad2d)
def _reflection_pad(
    shape: Shape, module: nn.ReflectionPad1d | nn.ReflectionPad2d, input: Value
) -> Template:
    return _pad(shape, None, input, module.padding, "reflect")


@builds(nn.ReplicationPad1d, nn.ReplicationPad2d)
def _replication_pad(
    shape: Shape, module: nn.ReplicationPad1d | nn.ReplicationPad2d, input: Value
) -> Template:
    return _pad(shape, None, input, module.padding, "replicate")


def _cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Pad((0, 1, 0, 1)), ((2, 3, 3),)),
        Case(Pad((2, 0, 1, 3)), ((1, 4, 2),)),
        Case(Pad((-1, 2, 0, -2)), ((2, 4, 3),)),
        Case(Pad((1, 0, -1, 1, 1, -1)), ((3, 2, 4),)),
        Case(Pad((1, -1, 0, 2), value=-0.7), ((2, 3, 2),)),
    ]


register(Entry("pad", "constants around the elements; negative widths crop", _cases))
