"""Operators that move or add elements: reshape, identity, signed sums."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.affine import reader, scale_template
from taut.operators.base import POINTWISE, Affine, Reach, Shape
from taut.operators.forms import Interval
from taut.operators.registry import Case, Entry, Live, Template, Value, builds, register


class _RowMajor(torch.autograd.Function):
    """Images laid out channel by channel, their gradient given back pixel by pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Reshape(Affine):
    """The same elements in another shape (batch axis kept).

    Row-major, as PyTorch has it; ``pixel_major`` flattens images pixel by pixel
    instead, without a copy where convolutions left them so. A graph chooses that
    only where every reader is a linear layer whose columns are put in the same order.
    """

    name: ClassVar[str] = "reshape"
    shape: Shape
    pixel_major: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.pixel_major:
            return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
        if x.dim() == 4 and not x.is_contiguous():
            x = _RowMajor.apply(x)  # type: ignore[no-untyped-call]
        return x.reshape(x.shape[0], *self.shape)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self.forward(*radii)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        (shape,) = shapes
        if self.pixel_major:
            channels, height, width = shape
            return (rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2),)
        rows = rows.reshape(rows.shape[0], *shape)
        if rows.dim() == 4:
            rows = rows.contiguous(memory_format=torch.channels_last)
        return (rows,)


@dataclass(frozen=True)
class Identity(Affine):
    """The input itself: dropout when evaluated, or an operator folded into the one before."""

    name: ClassVar[str] = "identity"

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0]

    def interval(self, *inputs: Interval) -> Interval:
        return inputs[0]

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows,)

    @property
    def reach(self) -> Reach:
        return POINTWISE

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows,)


@dataclass(frozen=True)
class Add(Affine):
    """``x1 + sign * x2``, the join of a residual branch; shapes may broadcast."""

    name: ClassVar[str] = "add"
    sign: float = 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.add(inputs[0], inputs[1], alpha=self.sign)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return torch.add(radii[0], radii[1], alpha=abs(self.sign))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (
            _collapse(rows, shapes[0]),
            _collapse(rows if self.sign == 1.0 else rows * self.sign, shapes[1]),
        )

    @property
    def reach(self) -> Reach:
        return POINTWISE

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        if shapes[0] != shapes[1]:
            raise ValueError("a window does not pass a broadcast sum")
        return rows, rows if self.sign == 1.0 else rows * self.sign


def _collapse(rows: Tensor, shape: Shape) -> Tensor:
    """Sum rows over the axes along which an operand of ``shape`` was broadcast."""
    return rows if tuple(rows.shape[1:]) == shape else rows.sum_to_size(rows.shape[0], *shape)


@builds(
    nn.Flatten,
    nn.Unflatten,
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    "view",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
)
def _reshape(
    shape: Shape, module: nn.Module | None, x: Value, *_: object, **__: object
) -> Template:
    # The sizes asked for were resolved when shapes were propagated; only the batch is free.
    return Template((x,), lambda: Reshape(shape))


@builds(nn.Identity, "contiguous", "clone")
def _identity(
    shape: Shape, module: nn.Module | None, input: Value, *_: object, **__: object
) -> Template:
    return Template((input,), Identity)


@builds(nn.Dropout, nn.Dropout2d)
def _dropout_module(shape: Shape, module: nn.Module, input: Value) -> Template:
    return Template((input,), Identity, noise=module)


@builds(F.dropout, F.dropout2d)
def _dropout(
    shape: Shape,
    module: None,
    input: Value,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Template:
    if training:
        raise UnsupportedOperator(
            "F.dropout traced with training=True; put the model in eval mode, or use "
            "nn.Dropout, whose mode is read at every call"
        )
    return Template((input,), Identity)


@builds(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(
    shape: Shape,
    module: None,
    input: Value | Live | float,
    other: Value | Live | float,
    alpha: float = 1.0,
) -> Template:
    if isinstance(input, Value) and isinstance(other, Value):
        return Template((input, other), lambda: Add(float(alpha)))
    if isinstance(input, Value) and not isinstance(other, Value):
        _no_growth(shape, input)
        shift = reader(other)
        return scale_template(input, None, shift if alpha == 1 else lambda: shift() * alpha)
    assert isinstance(other, Value)
    assert not isinstance(input, Value)
    _no_growth(shape, other)
    factor = reader(float(alpha)) if alpha != 1 else None
    return scale_template(other, factor, reader(input))


@builds(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def _sub(
    shape: Shape,
    module: None,
    input: Value | Live | float,
    other: Value | Live | float,
    alpha: float = 1.0,
) -> Template:
    return _add(shape, module, input, other, -alpha)


@builds(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def _mul(
    shape: Shape,
    module: None,
    input: Value | Live | float,
    other: Value | Live | float,
) -> Template:
    x, factor = (input, other) if isinstance(input, Value) else (other, input)
    if isinstance(x, Value) and not isinstance(factor, Value):
        _no_growth(shape, x)
        return scale_template(x, reader(factor), None)
    raise UnsupportedOperator("the product of two tensors that both depend on the input")


@builds(operator.truediv, operator.itruediv, torch.div, "div", "div_")
def _div(
    shape: Shape,
    module: None,
    input: Value | Live | float,
    other: Value | Live | float,
) -> Template:
    if isinstance(input, Value) and not isinstance(other, Value):
        _no_growth(shape, input)
        return scale_template(input, reader(other), None, inverse=True)
    raise UnsupportedOperator("a division whose divisor depends on the input")


def _no_growth(shape: Shape, x: Value) -> None:
    """Refuse a constant that broadcasts the input to a larger shape."""
    if x.shape != shape:
        raise UnsupportedOperator(
            f"a constant that broadcasts an input of shape {x.shape} to {shape}"
        )


def _reshape_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Reshape((12,)), ((3, 2, 2),)),
        Case(Reshape((12,), pixel_major=True), ((3, 2, 2),)),
        Case(Reshape((2, 6)), ((12,),)),
    ]


def _identity_cases(generator: torch.Generator) -> list[Case]:
    return [Case(Identity(), ((5,),))]


def _add_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Add(), ((3, 2), (3, 2))),
        Case(Add(-1.0), ((5,), (5,))),
        Case(Add(0.5), ((3, 2, 2), (3, 1, 1))),
    ]


register(Entry("reshape", "flatten, view, reshape, squeeze", _reshape_cases))
register(Entry("identity", "identity; dropout when evaluated", _identity_cases))
register(Entry("add", "sum or difference of two branches", _add_cases))
