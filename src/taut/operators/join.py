"""Joining tensors: concatenation and stacks, with constants among the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.operators.base import POINTWISE, Affine, Reach, Shape
from taut.operators.combine import Call, Combine, expanded
from taut.operators.registry import Case, Entry, Inner, Live, Template, Value, builds, register


@dataclass(frozen=True)
class Concat(Affine):
    """Tensors one after the other along ``axis``, counted without the batch axis."""

    name: ClassVar[str] = "concat"
    axis: int = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=self.axis + 1)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return torch.cat(radii, dim=self.axis + 1)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return torch.split(rows, [shape[self.axis] for shape in shapes], dim=self.axis + 1)

    @property
    def reach(self) -> Reach | None:
        return POINTWISE if self.axis == 0 else None

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return self.transpose(rows, shapes)


@dataclass(frozen=True, eq=False)
class Fill(Affine):
    """The constant ``value``, of the shape of the result, whatever the input is."""

    name: ClassVar[str] = "fill"
    value: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.value.expand(inputs[0].shape[0], *self.value.shape)

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].new_zeros(inputs[0].shape[0], *self.value.shape)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self.linear(*radii)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows.new_zeros(rows.shape[0], *shapes[0]),)

    def constant(self, rows: Tensor) -> Tensor | None:
        return (rows * self.value).flatten(1).sum(1)


def _fill(beside: Value, constant: Live) -> Inner:
    """Return a constant part as a step of its own."""

    def make() -> Fill:
        found = constant()
        if not torch.equal(found, found[:1].expand_as(found)):
            raise UnsupportedOperator("with a constant part that differs from image to image")
        return Fill(found[0])

    return Inner(Template((beside,), make), tuple(make().value.shape))


def joined(parts: Sequence[Value | Inner], axis: int) -> Template:
    """Return the concatenation of parts along ``axis``, counted without the batch axis."""
    return Template(tuple(parts), lambda: Concat(axis))


def stacked(parts: Sequence[Value | Inner], axis: int) -> Template:
    """Return parts of one shape along a new axis ``axis``, counted without the batch axis."""

    def widened(part: Value | Inner) -> Inner:
        shape = (*part.shape[:axis], 1, *part.shape[axis:])
        inner = Template((part,), lambda: Combine(Call(torch.unsqueeze, (axis + 1,))))
        return Inner(inner, shape)

    return joined([widened(part) for part in parts], axis)


def pair(x: Value, y: Value, shape: Shape) -> Inner:
    """Return two tensors, broadcast to ``shape``, along a new first axis of length two."""
    return Inner(stacked([expanded(x, shape), expanded(y, shape)], 0), (2, *shape))


def _inputs(tensors: Sequence[Value | Live]) -> list[Value | Inner]:
    given = [part for part in tensors if isinstance(part, Value)]
    if any(not isinstance(part, Value) and not callable(part) for part in tensors):
        raise UnsupportedOperator("of parts that are not tensors")
    return [part if isinstance(part, Value) else _fill(given[0], part) for part in tensors]


@builds(torch.cat, torch.concat, torch.concatenate)
def _cat(shape: Shape, module: None, tensors: Sequence[Value | Live], dim: int = 0) -> Template:
    axis = dim % (len(shape) + 1)
    if axis == 0:
        raise UnsupportedOperator("along the batch axis; name another one")
    return joined(_inputs(tensors), axis - 1)


@builds(torch.stack)
def _stack(shape: Shape, module: None, tensors: Sequence[Value | Live], dim: int = 0) -> Template:
    axis = dim % (len(shape) + 1)
    if axis == 0:
        raise UnsupportedOperator("along a new first axis, where the batch is; name another one")
    return stacked(_inputs(tensors), axis - 1)


def _concat_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Concat(0), ((2, 3, 2), (1, 3, 2), (3, 3, 2))),
        Case(Concat(1), ((2, 3), (2, 1))),
        Case(Concat(0), ((4,),)),
    ]


def _fill_cases(generator: torch.Generator) -> list[Case]:
    return [Case(Fill(torch.randn(2, 3, generator=generator, dtype=torch.float64)), ((4,),))]


register(Entry("concat", "tensors one after the other; stacks", _concat_cases))
register(Entry("fill", "a constant part of a concatenation", _fill_cases))
