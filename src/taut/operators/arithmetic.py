"""Arithmetic: sums, products and quotients, of two tensors or of a tensor and constants."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.operators.affine import reader, scale_template
from taut.operators.base import POINTWISE, Affine, Reach, Shape
from taut.operators.combine import expanded
from taut.operators.join import pair
from taut.operators.maximum import largest, negated
from taut.operators.product import Product, Square
from taut.operators.registry import Case, Entry, Inner, Live, Template, Value, builds, register
from taut.operators.relu import ReLU
from taut.operators.shape import Identity

Constant = Live | Tensor | float
Operand = Value | Constant


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


def _scaled(
    shape: Shape,
    x: Value,
    scale: Constant | None,
    shift: Constant | None,
    *,
    inverse: bool = False,
) -> Template:
    """Return ``scale * x + shift`` of ``shape``; constants may broadcast the input."""
    live = [None if value is None else _reader(shape, value) for value in (scale, shift)]
    return scale_template(expanded(x, shape), live[0], live[1], inverse)


def _reader(shape: Shape, value: Constant) -> Live:
    """Return a constant as a reader; refuse one that would hold a value per image."""
    read = reader(value)
    sizes = read().shape
    if len(sizes) > len(shape) and sizes != (1, *sizes[-len(shape) :]):
        raise UnsupportedOperator(
            f"with a constant of shape {tuple(sizes)} that has an axis for the images of a batch"
        )
    return read


def _two(shape: Shape, x: Operand, y: Operand) -> tuple[Value, Value] | None:
    """Return both operands where both depend on the input and broadcast image by image."""
    if not isinstance(x, Value) or not isinstance(y, Value):
        return None
    if len(x.shape) != len(y.shape):
        raise UnsupportedOperator(
            f"of two tensors with shapes {x.shape} and {y.shape}, whose batch axes do not meet; "
            f"use unsqueeze first"
        )
    return x, y


def _constant(value: Operand) -> Constant:
    assert not isinstance(value, Value)
    return value


@builds(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(
    shape: Shape, module: None, input: Operand, other: Operand, alpha: float = 1.0
) -> Template:
    both = _two(shape, input, other)
    if both is not None:
        return Template(both, lambda: Add(float(alpha)))
    if isinstance(input, Value):
        shift = _reader(shape, _constant(other))
        return _scaled(shape, input, None, shift if alpha == 1 else lambda: shift() * alpha)
    assert isinstance(other, Value)
    return _scaled(shape, other, float(alpha) if alpha != 1 else None, input)


@builds(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract")
def _sub(
    shape: Shape, module: None, input: Operand, other: Operand, alpha: float = 1.0
) -> Template:
    return _add(shape, module, input, other, -alpha)


@builds(torch.rsub)
def _rsub(
    shape: Shape, module: None, input: Operand, other: Operand, alpha: float = 1.0
) -> Template:
    return _sub(shape, module, other, input, alpha)


@builds(operator.neg, torch.neg, torch.negative, "neg", "neg_", "negative")
def _neg(shape: Shape, module: None, input: Value) -> Template:
    return negated(input)


@builds(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
def _mul(shape: Shape, module: None, input: Operand, other: Operand) -> Template:
    both = _two(shape, input, other)
    if both is not None:
        if both[0] == both[1]:
            return Template((both[0],), Square)
        return Template((pair(*both, shape),), Product)
    x, factor = (input, other) if isinstance(input, Value) else (other, input)
    assert isinstance(x, Value)
    return _scaled(shape, x, _constant(factor), None)


@builds(operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide)
@builds("div", "div_", "divide", "true_divide")
def _div(shape: Shape, module: None, input: Operand, other: Operand) -> Template:
    if isinstance(input, Value) and not isinstance(other, Value):
        return _scaled(shape, input, other, None, inverse=True)
    raise UnsupportedOperator("with a divisor that depends on the input; only constants divide")


@builds(torch.square, "square")
def _square(shape: Shape, module: None, input: Value) -> Template:
    return Template((input,), Square)


@builds(operator.pow, torch.pow, "pow")
def _pow(shape: Shape, module: None, input: Operand, exponent: Operand) -> Template:
    power = exponent if isinstance(exponent, (int, float)) else None
    if isinstance(input, Value) and power == 2:
        return Template((input,), Square)
    if isinstance(input, Value) and power == 1:
        return Template((input,), Identity)
    raise UnsupportedOperator("with this exponent; only squares, z ** 2, have a rule")


@builds(torch.zeros_like)
def _zeros_like(shape: Shape, module: None, input: Value, **_: object) -> Template:
    return scale_template(input, reader(0.0), None)


@builds(torch.maximum, "maximum")
def _maximum(shape: Shape, module: None, input: Operand, other: Operand) -> Template:
    both = _two(shape, input, other)
    if both is not None:
        return largest(pair(*both, shape), 0)
    x, level = (input, other) if isinstance(input, Value) else (other, input)
    assert isinstance(x, Value)
    above = _above(shape, x, _constant(level), 1.0)
    return scale_template(above, None, _reader(shape, _constant(level)))


def _above(shape: Shape, x: Value, level: Constant, sign: float) -> Inner:
    """Return ``relu(sign * (x - level))`` in front of what follows."""
    read = _reader(shape, level)
    factor = None if sign == 1.0 else reader(sign)
    moved = scale_template(expanded(x, shape), factor, lambda: -sign * read())
    return Inner(Template((Inner(moved, shape),), ReLU), shape)


@builds(torch.minimum, "minimum")
def _minimum(shape: Shape, module: None, input: Operand, other: Operand) -> Template:
    both = _two(shape, input, other)
    if both is not None:
        stacked = pair(*both, shape)
        found = largest(Inner(negated(stacked), stacked.shape), 0)
        return negated(Inner(found, shape))
    x, level = (input, other) if isinstance(input, Value) else (other, input)
    assert isinstance(x, Value)
    below = _above(shape, x, _constant(level), -1.0)
    return scale_template(below, reader(-1.0), _reader(shape, _constant(level)))


@builds(torch.max, "max")
def _max(shape: Shape, module: None, input: Value, other: Operand) -> Template:
    if isinstance(other, int):
        raise UnsupportedOperator("over an axis, which returns indices as well; use torch.amax")
    return _maximum(shape, None, input, other)


@builds(torch.min, "min")
def _min(shape: Shape, module: None, input: Value, other: Operand) -> Template:
    if isinstance(other, int):
        raise UnsupportedOperator("over an axis, which returns indices as well; use torch.amin")
    return _minimum(shape, None, input, other)


def _cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Add(), ((3, 2), (3, 2))),
        Case(Add(-1.0), ((5,), (5,))),
        Case(Add(0.5), ((3, 2, 2), (3, 1, 1))),
    ]


register(Entry("add", "sum or difference of two branches", _cases))
