"""Affine operators that hold weights: linear, conv2d and per-element scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Affine, Shape
from taut.operators.registry import (
    Case,
    Entry,
    Live,
    Template,
    Value,
    attribute,
    builds,
    live,
    register,
)

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """``x W^T + b`` over the last axis; ``weight (out, in)``, ``bias (out,)`` or None."""

    name: ClassVar[str] = "linear"
    weight: Tensor
    bias: Tensor | None

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    @cached_property
    def _magnitudes(self) -> Tensor:
        return self.weight.abs()

    def magnitude(self, *radii: Tensor) -> Tensor:
        return F.linear(radii[0], self._magnitudes)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows @ self.weight,)

    def constant(self, rows: Tensor) -> Tensor | None:
        if self.bias is None:
            return None
        found = rows @ self.bias
        return found if found.dim() == 1 else found.flatten(1).sum(1)

    def scaled(self, scale: Tensor, shift: Tensor) -> Linear:
        """Return the operator followed by ``scale * z + shift`` per output feature."""
        bias = shift if self.bias is None else self.bias * scale + shift
        return Linear(self.weight * scale[:, None], bias)


@dataclass(frozen=True, eq=False)
class Conv2d(Affine):
    """Two-dimensional convolution, zero padding; ``weight (out, in / groups, kh, kw)``."""

    name: ClassVar[str] = "conv2d"
    weight: Tensor
    bias: Tensor | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], self.weight, self.bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @cached_property
    def _magnitudes(self) -> Tensor:
        return self.weight.abs()

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._convolve(radii[0], self._magnitudes, None)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        # The transposed convolution covers (out - 1) stride - 2 padding + dilated kernel
        # cells; what the strides left over at the far border is restored explicitly.
        missing = tuple(
            size
            - (
                (out - 1) * self.stride[axis]
                - 2 * self.padding[axis]
                + self.dilation[axis] * (self.weight.shape[2 + axis] - 1)
                + 1
            )
            for axis, (size, out) in enumerate(
                zip(shapes[0][1:], rows.shape[2:], strict=True)
            )
        )
        return (
            F.conv_transpose2d(
                rows,
                self.weight,
                None,
                self.stride,
                self.padding,
                cast(Pair, missing),
                self.groups,
                self.dilation,
            ),
        )

    def constant(self, rows: Tensor) -> Tensor | None:
        if self.bias is None:
            return None
        return rows.sum((2, 3)) @ self.bias

    def scaled(self, scale: Tensor, shift: Tensor) -> Conv2d:
        """Return the operator followed by ``scale * z + shift`` per output channel."""
        bias = shift if self.bias is None else self.bias * scale + shift
        return Conv2d(
            self.weight * scale[:, None, None, None],
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """``scale * x + shift`` element by element; both broadcast to the node's shape."""

    name: ClassVar[str] = "scale"
    scale: Tensor | None
    shift: Tensor | None

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        if self.scale is None:
            return x if self.shift is None else x + self.shift
        if self.shift is None:
            return x * self.scale
        return torch.addcmul(self.shift, x, self.scale)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0] if self.scale is None else radii[0] * self.scale.abs()

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows if self.scale is None else rows * self.scale,)

    def constant(self, rows: Tensor) -> Tensor | None:
        return None if self.shift is None else (rows * self.shift).flatten(1).sum(1)


def _tensors(weight: Live, bias: Live | None) -> tuple[Tensor, Tensor | None]:
    return weight(), None if bias is None else bias()


def _pair(value: int | Sequence[int]) -> Pair:
    if isinstance(value, int):
        return (value, value)
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


@builds(nn.Linear)
def _linear_module(shape: Shape, module: nn.Linear, x: Value) -> Template:
    weight, bias = attribute(module, "weight"), attribute(module, "bias")
    return _linear(shape, None, x, cast(Live, weight), bias)


@builds(F.linear)
def _linear(
    shape: Shape,
    module: None,
    input: Value,  # noqa: A002 - the functional form's own argument name
    weight: Live,
    bias: Live | None = None,
) -> Template:
    # Along the last of several axes the channels of a batch norm are another axis: no folding.
    return Template((input,), lambda: Linear(*_tensors(weight, bias)), folds=len(shape) == 1)


@builds(nn.Conv2d)
def _conv2d_module(shape: Shape, module: nn.Conv2d, x: Value) -> Template:
    if module.padding_mode != "zeros":
        raise UnsupportedOperator(
            f"nn.Conv2d with padding_mode={module.padding_mode!r} has no rule; use zero padding"
        )
    return _conv2d(
        shape,
        None,
        x,
        cast(Live, attribute(module, "weight")),
        attribute(module, "bias"),
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )


@builds(F.conv2d)
def _conv2d(
    shape: Shape,
    module: None,
    input: Value,  # noqa: A002 - the functional form's own argument name
    weight: Live,
    bias: Live | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Template:
    step, spread = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        kernel = weight().shape[2:]
        total = [spread[i] * (kernel[i] - 1) if padding == "same" else 0 for i in range(2)]
        if any(size % 2 for size in total):
            raise UnsupportedOperator(
                "conv2d with padding='same' and an even dilated kernel pads unevenly and has no "
                "rule; pad explicitly"
            )
        pad = (total[0] // 2, total[1] // 2)
    else:
        pad = _pair(padding)
    return Template(
        (input,), lambda: Conv2d(*_tensors(weight, bias), step, pad, spread, groups), folds=True
    )


def scale_template(
    x: Value, scale: Live | None, shift: Live | None, inverse: bool = False
) -> Template:
    """Return ``scale * x + shift`` with live readers; ``inverse`` divides by ``scale``."""

    def make() -> Scale:
        factor = None if scale is None else scale()
        return Scale(
            factor.reciprocal() if inverse and factor is not None else factor,
            None if shift is None else shift(),
        )

    return Template((x,), make)


def reader(value: Live | Tensor | float) -> Live:
    """Return a constant operand of the graph as a reader."""
    return cast(Live, live(value))


def _weights(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _linear_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Linear(_weights(generator, 5, 7), _weights(generator, 5)), ((7,),)),
        Case(Linear(_weights(generator, 1, 3), None), ((3,),)),
        Case(Linear(_weights(generator, 4, 3), _weights(generator, 4)), ((2, 3),)),
    ]


def _conv2d_cases(generator: torch.Generator) -> list[Case]:
    cases = []
    for stride, padding, dilation, groups, kernel, size in [
        ((1, 1), (0, 0), (1, 1), 1, (3, 3), (5, 5)),
        ((2, 2), (1, 1), (1, 1), 1, (3, 3), (6, 7)),
        ((2, 1), (0, 2), (1, 1), 2, (4, 3), (7, 6)),
        ((3, 2), (2, 1), (2, 1), 1, (2, 3), (9, 8)),
        ((1, 1), (1, 1), (1, 1), 4, (3, 3), (4, 4)),
        ((2, 2), (0, 0), (1, 1), 1, (1, 1), (5, 4)),
    ]:
        weight = _weights(generator, 4, 4 // groups, *kernel)
        bias = _weights(generator, 4)
        cases.append(
            Case(Conv2d(weight, bias, stride, padding, dilation, groups), ((4, *size),))
        )
    return cases


def _scale_cases(generator: torch.Generator) -> list[Case]:
    per_channel = _weights(generator, 3, 1, 1), _weights(generator, 3, 1, 1)
    return [
        Case(Scale(*per_channel), ((3, 4, 4),)),
        Case(Scale(None, _weights(generator, 5)), ((5,),)),
        Case(Scale(_weights(generator, 1), None), ((5,),)),
    ]


register(Entry("linear", "x W^T + b", _linear_cases))
register(
    Entry("conv2d", "2-D convolution: stride, padding, dilation, groups", _conv2d_cases)
)
register(Entry("scale", "scale * x + shift with constants", _scale_cases))
