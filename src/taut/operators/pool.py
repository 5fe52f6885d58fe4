"""Average and max pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Affine, Pair, Reach, Shape
from taut.operators.combine import Call, Combine
from taut.operators.images import Sizes, along, as_image, as_pair, from_image, image
from taut.operators.maximum import PoolWindows, largest
from taut.operators.registry import Case, Entry, Inner, Template, Value, builds, register


@dataclass(frozen=True)
class AvgPool2d(Affine):
    """Means over windows of images ``(C, H, W)``; the arguments are those of ``F.avg_pool2d``."""

    name: ClassVar[str] = "avg-pool2d"
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._pool(inputs[0])

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._pool(radii[0])

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (self._spread(rows, shapes[0], self.padding, self.ceil_mode),)

    def _spread(self, rows: Tensor, shape: Shape, padding: Pair, ceil_mode: bool) -> Tensor:
        found: Tensor = torch.ops.aten.avg_pool2d_backward(
            rows,
            rows.new_zeros(()).expand(rows.shape[0], *shape),  # only its sizes are read
            self.kernel,
            self.stride,
            padding,
            ceil_mode,
            self.count_include_pad,
            self.divisor,
        )
        return found

    @property
    def reach(self) -> Reach | None:
        whole = self.count_include_pad or self.padding == (0, 0) or self.divisor is not None
        if self.ceil_mode or not whole:
            return None  # windows at the border have weights of their own
        return Reach(self.stride, self.padding, self.kernel)

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        sizes = [(rows.shape[2 + i] - 1) * self.stride[i] + self.kernel[i] for i in range(2)]
        return (self._spread(rows, (shapes[0][0], *sizes), (0, 0), False),)


@builds(F.avg_pool2d)
def _avg_pool2d(
    shape: Shape,
    module: None,
    input: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Template:
    pool = AvgPool2d(
        as_pair(kernel_size),
        as_pair(stride or kernel_size),
        as_pair(padding),
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    return Template((image(input, "avg_pool2d"),), lambda: pool)


@builds(F.avg_pool1d)
def _avg_pool1d(
    shape: Shape,
    module: None,
    input: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Template:
    pool = AvgPool2d(
        along(kernel_size, 1),
        along(stride or kernel_size, 1),
        along(padding, 0),
        ceil_mode,
        count_include_pad,
    )
    return from_image(Template((as_image(input, "avg_pool1d"),), lambda: pool), shape)


@builds(nn.AvgPool2d)
def _avg_pool2d_module(shape: Shape, module: nn.AvgPool2d, input: Value) -> Template:
    return _avg_pool2d(
        shape,
        None,
        input,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    )


@builds(nn.AvgPool1d)
def _avg_pool1d_module(shape: Shape, module: nn.AvgPool1d, input: Value) -> Template:
    return _avg_pool1d(
        shape,
        None,
        input,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
    )


def _even(size: Sequence[int], found: Sequence[int]) -> Pair | None:
    """Return the windows of an adaptive pooling where they are all alike."""
    if any(n % m for n, m in zip(size, found, strict=True)):
        return None
    return size[0] // found[0], size[1] // found[1]


@builds(nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(
    shape: Shape, module: nn.Module | None, input: Value, output_size: object = None
) -> Template:
    # The size asked for was resolved when shapes were propagated.
    size = shape[1:]
    window = _even(image(input, "adaptive_avg_pool2d").shape[1:], size)
    if window is None:
        return Template((input,), lambda: Combine(Call(F.adaptive_avg_pool2d, (size,))))
    return Template((input,), lambda: AvgPool2d(window, window))


@builds(nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d)
def _adaptive_avg_pool1d(
    shape: Shape, module: nn.Module | None, input: Value, output_size: object = None
) -> Template:
    inner, size = as_image(input, "adaptive_avg_pool1d"), (1, shape[1])
    window = _even(inner.shape[1:], size)
    if window is None:
        return Template((input,), lambda: Combine(Call(F.adaptive_avg_pool1d, (shape[1],))))
    return from_image(Template((inner,), lambda: AvgPool2d(window, window)), shape)


def _max_pool(
    shape: Shape, input: Value | Inner, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Template:
    """Return max pooling of images to ``shape``: its windows, and the maximum of each."""

    def beyond(axis: int) -> int:
        last = (shape[1 + axis] - 1) * stride[axis] - padding[axis]
        return max(0, last + dilation[axis] * (kernel[axis] - 1) + 1 - input.shape[1 + axis])

    margins = (padding[1], beyond(1), padding[0], beyond(0))
    if any(margins) and dilation != (1, 1):
        raise UnsupportedOperator("with padding or ceil_mode and a dilation; use one without")
    windows = PoolWindows(kernel, stride, dilation, margins)
    count = kernel[0] * kernel[1]
    inner = Inner(Template((input,), lambda: windows), (shape[0], count, *shape[1:]))
    return largest(inner, 1)


def _refuse_indices(return_indices: bool) -> None:
    if return_indices:
        raise UnsupportedOperator("with return_indices=True; only the maxima can be bounded")


@builds(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    shape: Shape,
    module: None,
    input: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Template:
    _refuse_indices(return_indices)
    return _max_pool(
        shape,
        image(input, "max_pool2d"),
        as_pair(kernel_size),
        as_pair(stride or kernel_size),
        as_pair(padding),
        as_pair(dilation),
    )


@builds(F.max_pool1d, torch.max_pool1d)
def _max_pool1d(
    shape: Shape,
    module: None,
    input: Value,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Template:
    _refuse_indices(return_indices)
    x = as_image(input, "max_pool1d")
    found = _max_pool(
        (shape[0], 1, shape[1]),
        x,
        along(kernel_size, 1),
        along(stride or kernel_size, 1),
        along(padding, 0),
        along(dilation, 1),
    )
    return from_image(found, shape)


@builds(nn.MaxPool2d, nn.MaxPool1d)
def _max_pool_module(shape: Shape, module: nn.MaxPool2d | nn.MaxPool1d, input: Value) -> Template:
    build = _max_pool2d if isinstance(module, nn.MaxPool2d) else _max_pool1d
    return build(
        shape,
        None,
        input,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    )


@builds(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool2d_module(
    shape: Shape, module: nn.AdaptiveMaxPool2d, input: Value
) -> Template:
    return _adaptive_max_pool2d(shape, None, input, return_indices=module.return_indices)


@builds(F.adaptive_max_pool2d)
def _adaptive_max_pool2d(
    shape: Shape,
    module: None,
    input: Value,
    output_size: object = None,
    return_indices: bool = False,
) -> Template:
    _refuse_indices(return_indices)
    window = _even(image(input, "adaptive_max_pool2d").shape[1:], shape[1:])
    if window is None:
        raise UnsupportedOperator("with windows of unequal sizes; choose a size that divides")
    return _max_pool(shape, input, window, window, (0, 0), (1, 1))


def _cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(AvgPool2d((3, 2), (2, 1), (1, 1)), ((2, 5, 4),)),
        Case(AvgPool2d((3, 3), (2, 2), (1, 1), count_include_pad=False), ((1, 4, 6),)),
        Case(AvgPool2d((2, 3), (2, 2), (1, 0), ceil_mode=True), ((1, 4, 4),)),
        Case(AvgPool2d((3, 3), (1, 2), (1, 1), False, False, 5), ((2, 3, 4),)),
        Case(AvgPool2d((1, 3), (1, 2), (0, 1)), ((2, 1, 7),)),
    ]


register(Entry("avg-pool2d", "means over windows; all arguments of avg_pool2d", _cases))
