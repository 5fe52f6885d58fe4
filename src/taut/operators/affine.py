"""Affine operators that hold weights: linear, conv2d and per-element scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators import windows
from taut.operators.base import POINTWISE, Affine, Pair, Reach, Shape, channels_last
from taut.operators.registry import (
    Case,
    Entry,
    Inner,
    Live,
    Template,
    Value,
    attribute,
    builds,
    live,
    register,
)

_NARROW = 16  # channels that a vector unit works on at once


class _NarrowTranspose(torch.autograd.Function):
    """A strided transposed convolution to few channels, as a dense one and a shuffle.

    Every residue of the output position modulo the stride is a convolution of its
    own with every stride-th kernel entry; together they are one convolution to
    ``C x stride x stride`` channels, which vector units fill better than C alone.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair
    ) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.stride, ctx.padding, ctx.size = stride, padding, size
        (s, t), (_, channels, height, width) = stride, weight.shape
        taps = -(-height // s), -(-width // t)
        kernel = F.pad(weight, (0, taps[1] * t - width, 0, taps[0] * s - height))
        kernel = kernel.unflatten(3, (taps[1], t)).unflatten(2, (taps[0], s))
        kernel = kernel.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2)
        found = F.conv2d(rows, channels_last(kernel), None, 1, (taps[0] - 1, taps[1] - 1))
        found = found.unflatten(1, (channels, s, t)).permute(0, 1, 4, 2, 5, 3)
        found = found.flatten(4, 5).flatten(2, 3)
        (top, left), (rows_out, columns_out) = padding, size
        short = top + rows_out - found.shape[2], left + columns_out - found.shape[3]
        if max(short) > 0:  # input cells beyond the last window have no coefficients
            found = F.pad(found, (0, max(short[1], 0), 0, max(short[0], 0)))
        return found[:, :, top : top + rows_out, left : left + columns_out].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        kind = weight.dtype  # under autocast rows and gradients are of another
        missing = windows.left_over(
            ctx.size, rows.shape[2:], weight.shape[2:], ctx.stride, ctx.padding, (1, 1)
        )
        to_rows, to_weight, _ = torch.ops.aten.convolution_backward(
            channels_last(grads[0].to(kind)),
            rows.to(kind),
            weight,
            None,
            ctx.stride,
            ctx.padding,
            (1, 1),
            True,
            missing,
            1,
            (*ctx.needs_input_grad[:2], False),
        )
        to_rows = None if to_rows is None else to_rows.to(rows.dtype)
        return to_rows, to_weight, None, None, None


class _NarrowConvolution(torch.autograd.Function):
    """A strided convolution of few channels that hands gradients to its input alone.

    Those take the way of :class:`_NarrowTranspose`; attacks on images spend much of their time
    here.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.padding, ctx.size = stride, padding, (x.shape[2], x.shape[3])
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        rows = channels_last(grads[0].to(weight.dtype))  # autocast is over by now
        found = _NarrowTranspose.apply(rows, weight, ctx.stride, ctx.padding, ctx.size)  # type: ignore[no-untyped-call]
        return found, None, None, None, None


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """``x W^T + b`` over the last axis; ``weight (out, in)``, ``bias (out,)`` or None."""

    name: ClassVar[str] = "linear"
    weight: Tensor
    bias: Tensor | None

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias)

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return F.linear(radii[0], self.weight.abs())

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

    def pixel_major(self, image: Shape) -> Linear:
        """Return the operator for inputs flattened pixel by pixel from ``(C, H, W)``."""
        count = self.weight.shape[1]
        order = torch.arange(count, device=self.weight.device).view(image[0], -1).T.reshape(-1)
        return Linear(self.weight.index_select(1, order), self.bias)


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

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], self.weight, None)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._thin(x.shape[2:]):
            x, weight = x.contiguous(), weight.contiguous()
        else:
            x, weight = channels_last(x), channels_last(weight)
            by_input = x.requires_grad and torch.is_grad_enabled()
            by_weight = weight.requires_grad or (bias is not None and bias.requires_grad)
            if self._narrow and by_input and not by_weight:
                return _NarrowConvolution.apply(x, weight, bias, self.stride, self.padding)  # type: ignore[no-untyped-call, no-any-return]
        return F.conv2d(x, weight, bias, self.stride, self.padding, self._dilation, self.groups)

    @property
    def _dilation(self) -> Pair:
        """The dilation, 1 along sides of the kernel that have nothing to spread."""
        sides = self.weight.shape[2:]
        return tuple(d if n > 1 else 1 for d, n in zip(self.dilation, sides, strict=True))  # type: ignore[return-value]

    def _thin(self, size: Sequence[int]) -> bool:
        """Whether images before or after are one pixel high or wide.

        There the library's kernels for channels-last images read beyond their end.
        """
        sides = [
            (size[i] + 2 * self.padding[i] - self._dilation[i] * (self.weight.shape[2 + i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        ]
        return min(*size, *sides) == 1

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._convolve(radii[0], self.weight.abs(), None)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        size = shapes[0][1:]
        thin = self._thin(size)
        if thin:
            rows, weight = rows.contiguous(), self.weight.contiguous()
        else:
            rows, weight = channels_last(rows), channels_last(self.weight)
        if self._narrow and not thin:
            return (_NarrowTranspose.apply(rows, weight, self.stride, self.padding, size),)  # type: ignore[no-untyped-call]
        missing = windows.left_over(
            size, rows.shape[2:], weight.shape[2:], self.stride, self.padding, self._dilation
        )
        return (
            F.conv_transpose2d(
                rows, weight, None, self.stride, self.padding, missing, self.groups, self._dilation
            ),
        )

    @property
    def reach(self) -> Reach:
        extent = [self._dilation[i] * (self.weight.shape[2 + i] - 1) + 1 for i in range(2)]
        return Reach(self.stride, self.padding, (extent[0], extent[1]))

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        rows, weight = channels_last(rows), channels_last(self.weight)
        return (windows.pull(rows, weight, self.stride, self._dilation, self.groups),)

    @property
    def _narrow(self) -> bool:
        """Whether few input channels make the library's transposed convolution wasteful."""
        return (
            self.groups == 1
            and self.dilation == (1, 1)
            and self.weight.shape[1] * self.stride[0] * self.stride[1] <= _NARROW
            and max(self.stride) > 1
        )

    def constant(self, rows: Tensor) -> Tensor | None:
        if self.bias is None:
            return None
        # One pass in the order of memory, which summing pixels first is not.
        height, width = rows.shape[2:]
        flat = rows.permute(0, 2, 3, 1).reshape(rows.shape[0], -1)
        return flat @ self.bias.repeat(height * width)

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

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.scale is None else inputs[0] * self.scale

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0] if self.scale is None else radii[0] * self.scale.abs()

    @property
    def reach(self) -> Reach | None:
        uniform = all(_per_channel(t) for t in (self.scale, self.shift))
        return POINTWISE if uniform else None

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return self.transpose(rows, shapes)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows if self.scale is None else rows * self.scale,)

    def constant(self, rows: Tensor) -> Tensor | None:
        return None if self.shift is None else (rows * self.shift).flatten(1).sum(1)


def _per_channel(value: Tensor | None) -> bool:
    """Whether a constant is the same at every pixel of an image."""
    return value is None or value.dim() == 0 or tuple(value.shape[-2:]) == (1, 1)


def tensors(weight: Live, bias: Live | None) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight and bias as they are at this moment."""
    return weight(), None if bias is None else bias()


@builds(nn.Linear)
def _linear_module(shape: Shape, module: nn.Linear, x: Value) -> Template:
    weight, bias = attribute(module, "weight"), attribute(module, "bias")
    return _linear(shape, None, x, cast(Live, weight), bias)


@builds(F.linear)
def _linear(
    shape: Shape,
    module: None,
    input: Value,
    weight: Live,
    bias: Live | None = None,
) -> Template:
    # Along the last of several axes the channels of a batch norm are another axis: no folding.
    return Template((input,), lambda: Linear(*tensors(weight, bias)), folds=len(shape) == 1)


def scale_template(
    x: Value | Inner, scale: Live | None, shift: Live | None, inverse: bool = False
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


def random_weights(generator: torch.Generator, *shape: int) -> Tensor:
    """Return float64 weights for a case."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _linear_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Linear(random_weights(generator, 5, 7), random_weights(generator, 5)), ((7,),)),
        Case(Linear(random_weights(generator, 1, 3), None), ((3,),)),
        Case(Linear(random_weights(generator, 4, 3), random_weights(generator, 4)), ((2, 3),)),
    ]


def _scale_cases(generator: torch.Generator) -> list[Case]:
    per_channel = random_weights(generator, 3, 1, 1), random_weights(generator, 3, 1, 1)
    return [
        Case(Scale(*per_channel), ((3, 4, 4),)),
        Case(Scale(None, random_weights(generator, 5)), ((5,),)),
        Case(Scale(random_weights(generator, 1), None), ((5,),)),
    ]


register(Entry("linear", "x W^T + b", _linear_cases))
register(Entry("scale", "scale * x + shift with constants", _scale_cases))
