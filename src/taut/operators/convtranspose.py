"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.operators.affine import random_weights, tensors
from taut.operators.base import Affine, Pair, Shape
from taut.operators.images import Sizes, along, as_image, as_pair, from_image, heightened, image
from taut.operators.registry import (
    Case,
    Entry,
    Live,
    Template,
    Value,
    attribute,
    builds,
    register,
)
from taut.operators.windows import left_over


@dataclass(frozen=True, eq=False)
class ConvTranspose2d(Affine):
    """Transposed convolution of images; ``weight (in, out / groups, kh, kw)``."""

    name: ClassVar[str] = "conv-transpose2d"
    weight: Tensor
    bias: Tensor | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    groups: int = 1
    dilation: Pair = (1, 1)

    def _spread(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._spread(inputs[0], self.weight, self.bias)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._spread(inputs[0], self.weight, None)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._spread(radii[0], self.weight.abs(), None)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        found = F.conv2d(
            rows, self.weight, None, self.stride, self.padding, self.dilation, self.groups
        )
        # An output padding of a whole stride leaves room for windows that no input wrote.
        _, height, width = shapes[0]
        return (found[:, :, :height, :width],)

    def constant(self, rows: Tensor) -> Tensor | None:
        return None if self.bias is None else rows.sum((2, 3)) @ self.bias


@builds(F.conv_transpose2d)
def _conv_transpose2d(
    shape: Shape,
    module: None,
    input: Value,
    weight: Live,
    bias: Live | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Template:
    x = image(input, "conv_transpose2d")
    step, pad, spread = as_pair(stride), as_pair(padding), as_pair(dilation)
    # What is left over was asked for as an output padding or by an output size.
    extra = left_over(shape[1:], x.shape[1:], weight().shape[2:], step, pad, spread)
    return Template(
        (x,),
        lambda: ConvTranspose2d(*tensors(weight, bias), step, pad, extra, groups, spread),
    )


@builds(F.conv_transpose1d)
def _conv_transpose1d(
    shape: Shape,
    module: None,
    input: Value,
    weight: Live,
    bias: Live | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Template:
    x = as_image(input, "conv_transpose1d")
    step, pad, spread = along(stride, 1), along(padding, 0), along(dilation, 1)
    high = heightened(weight)
    size = 1, shape[1]
    extra = left_over(size, x.shape[1:], high().shape[2:], step, pad, spread)
    found = Template(
        (x,), lambda: ConvTranspose2d(*tensors(high, bias), step, pad, extra, groups, spread)
    )
    return from_image(found, shape)


@builds(nn.ConvTranspose1d, nn.ConvTranspose2d)
def _conv_transpose_module(
    shape: Shape,
    module: nn.ConvTranspose1d | nn.ConvTranspose2d,
    input: Value,
    output_size: object = None,
) -> Template:
    # PyTorch itself takes no other padding mode than zeros here.
    build = _conv_transpose2d if isinstance(module, nn.ConvTranspose2d) else _conv_transpose1d
    return build(
        shape,
        None,
        input,
        cast(Live, attribute(module, "weight")),
        attribute(module, "bias"),
        module.stride,
        cast("tuple[int, ...]", module.padding),
        0,
        module.groups,
        module.dilation,
    )


def _cases(generator: torch.Generator) -> list[Case]:
    cases = []
    for stride, padding, extra, groups, dilation, kernel, size in [
        ((1, 1), (0, 0), (0, 0), 1, (1, 1), (3, 3), (3, 4)),
        ((2, 2), (1, 1), (1, 0), 1, (1, 1), (3, 4), (3, 2)),
        ((3, 2), (0, 2), (2, 1), 2, (1, 2), (2, 3), (2, 4)),
        ((1, 2), (1, 0), (1, 2), 4, (2, 3), (3, 2), (4, 3)),
    ]:
        weight = random_weights(generator, 4, 2, *kernel)
        bias = random_weights(generator, 2 * groups)
        spread = ConvTranspose2d(weight, bias, stride, padding, extra, groups, dilation)
        cases.append(Case(spread, ((4, *size),)))
    return cases


register(Entry("conv-transpose2d", "transposed convolution, all arguments", _cases))
