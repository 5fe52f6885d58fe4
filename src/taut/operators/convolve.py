"""Convolutions of signals and images, traced to :class:`~taut.operators.affine.Conv2d`."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from taut.errors import UnsupportedOperator
from taut.operators.affine import Conv2d, random_weights, tensors
from taut.operators.base import Pair, Shape
from taut.operators.images import Sizes, along, as_image, as_pair, from_image, heightened, image
from taut.operators.registry import (
    Case,
    Entry,
    Inner,
    Live,
    Template,
    Value,
    attribute,
    builds,
    register,
)


@builds(nn.Conv1d, nn.Conv2d)
def _conv_module(shape: Shape, module: nn.Conv1d | nn.Conv2d, input: Value) -> Template:
    if module.padding_mode != "zeros":
        raise UnsupportedOperator(
            f"with padding_mode={module.padding_mode!r}; pad with zeros, or with F.pad in front"
        )
    build = _conv2d if isinstance(module, nn.Conv2d) else _conv1d
    return build(
        shape,
        None,
        input,
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
    input: Value,
    weight: Live,
    bias: Live | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Template:
    spread = as_pair(dilation)
    pad = _same(weight, padding, spread) if isinstance(padding, str) else as_pair(padding)
    return _convolution(image(input, "conv2d"), weight, bias, as_pair(stride), pad, spread, groups)


@builds(F.conv1d)
def _conv1d(
    shape: Shape,
    module: None,
    input: Value,
    weight: Live,
    bias: Live | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Template:
    high, spread = heightened(weight), along(dilation, 1)
    pad = _same(high, padding, spread) if isinstance(padding, str) else along(padding, 0)
    x = as_image(input, "conv1d")
    return from_image(_convolution(x, high, bias, along(stride, 1), pad, spread, groups), shape)


def _same(weight: Live, padding: str, dilation: Pair) -> Pair:
    """Return the padding of ``same`` and ``valid`` as numbers."""
    kernel = weight().shape[2:]
    total = [dilation[i] * (kernel[i] - 1) if padding == "same" else 0 for i in range(2)]
    if any(size % 2 for size in total):
        raise UnsupportedOperator(
            "with padding='same' and an even dilated kernel, which pads unevenly; choose an odd "
            "kernel or a padding of numbers"
        )
    return total[0] // 2, total[1] // 2


def _convolution(
    x: Value | Inner,
    weight: Live,
    bias: Live | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Template:
    return Template(
        (x,),
        lambda: Conv2d(*tensors(weight, bias), stride, padding, dilation, groups),
        folds=True,
    )


def _cases(generator: torch.Generator) -> list[Case]:
    cases = []
    for stride, padding, dilation, groups, kernel, size in [
        ((1, 1), (0, 0), (1, 1), 1, (3, 3), (5, 5)),
        ((2, 2), (1, 1), (1, 1), 1, (3, 3), (6, 7)),
        ((2, 1), (0, 2), (1, 1), 2, (4, 3), (7, 6)),
        ((3, 2), (2, 1), (2, 1), 1, (2, 3), (9, 8)),
        ((1, 1), (1, 1), (1, 1), 4, (3, 3), (4, 4)),
        ((2, 2), (0, 0), (1, 1), 1, (1, 1), (5, 4)),
        ((1, 2), (0, 1), (1, 2), 2, (1, 3), (1, 9)),
    ]:
        weight = random_weights(generator, 4, 4 // groups, *kernel)
        bias = random_weights(generator, 4)
        cases.append(Case(Conv2d(weight, bias, stride, padding, dilation, groups), ((4, *size),)))
    for stride, padding, kernel, size in [  # few input channels: the other transpose
        ((2, 2), (1, 1), (4, 4), (8, 7)),
        ((2, 3), (0, 1), (3, 2), (9, 8)),
        ((3, 1), (2, 0), (1, 3), (8, 5)),
    ]:
        weight = random_weights(generator, 4, 1, *kernel)
        bias = random_weights(generator, 4)
        cases.append(Case(Conv2d(weight, bias, stride, padding), ((1, *size),)))
    return cases


register(Entry("conv2d", "1-D, 2-D convolution: stride, padding, dilation, groups", _cases))
