"""Rules of layers with weights: linear, convolution, batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from taut.errors import UnsupportedOperator
from taut.formats.onnx.call import Call, rule
from taut.formats.onnx.read import Array
from taut.formats.onnx.value import Value

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def layer_of(
    call: Call, kind: type[nn.Module], *args: Any, weights: dict[str, Array | None], **options: Any
) -> nn.Module:
    """Return a layer with these parameters and buffers; no random number is drawn."""
    if "bias" in weights and not issubclass(kind, nn.modules.batchnorm._BatchNorm):
        options["bias"] = weights["bias"] is not None
    layer: nn.Module = nn.utils.skip_init(kind, *args, dtype=call.builder.dtype, **options)
    with torch.no_grad():
        for name, array in weights.items():
            if array is not None:
                getattr(layer, name).copy_(call.tensor(array))
    return layer


def images(call: Call) -> tuple[Value, int]:
    """Return the first input with its batch in front, and how many axes its images have."""
    x = call.builder.batch_at(call.value(), 0)
    dims = len(x.rest) - 1
    if dims not in (1, 2, 3):
        raise UnsupportedOperator(f"on a tensor of shape {x.shape}")
    return x, dims


Widths = tuple[list[int], list[int]]
"""Padding in front of and behind every axis of an image."""


def pads_of(
    call: Call, size: Sequence[int], kernel: list[int], stride: list[int], spread: list[int]
) -> Widths:
    """Return the padding that a node asks for, by numbers or by a rule of its own."""
    dims, mode = len(kernel), call.attribute("auto_pad", "NOTSET")
    pads = call.numbers("pads") or [0] * (2 * dims)
    if mode == "NOTSET":
        return pads[:dims], pads[dims:]
    if mode == "VALID":
        return [0] * dims, [0] * dims
    total = [
        max((ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, spread, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def pad(call: Call, x: Value, widths: Widths, value: float = 0.0) -> Value:
    """Pad the last axes of the module's tensor with a constant."""
    flat = [w for pair in zip(*map(reversed, widths), strict=True) for w in pair]
    while flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not flat:
        return x
    return call.builder.function(F.pad, x, flat, value=value, axis=x.axis)


def window(call: Call, dims: int, shape: Sequence[int] | None) -> tuple[list[int], ...]:
    """Return kernel, strides and dilations; the kernel is that of the weights where there are."""
    asked = call.numbers("kernel_shape")
    kernel = asked if shape is None else list(shape)
    if kernel is None or len(kernel) != dims or (asked is not None and asked != kernel):
        raise UnsupportedOperator(f"with weights of kernel {kernel} and kernel_shape {asked}")
    return kernel, call.numbers("strides") or [1] * dims, call.numbers("dilations") or [1] * dims


@rule("Conv")
def _conv(call: Call) -> Value:
    x, dims = images(call)
    weight = call.array(1)
    kernel, stride, spread = window(call, dims, weight.shape[2:])
    widths = pads_of(call, x.rest[1:], kernel, stride, spread)
    padding = tuple(widths[0])
    if widths[0] != widths[1]:
        x, padding = pad(call, x, widths), (0,) * dims
    groups = call.attribute("group", 1)
    layer = layer_of(
        call,
        _CONVOLUTIONS[dims - 1],
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(kernel),
        weights={"weight": weight, "bias": call.optional(2)},
        stride=tuple(stride),
        padding=padding,
        dilation=tuple(spread),
        groups=groups,
    )
    return call.builder.module(layer, x, 0)


@rule("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    x, dims = images(call)
    weight = call.array(1)
    kernel, stride, spread = window(call, dims, weight.shape[2:])
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedOperator("with padding of its own choice (auto_pad)")
    pads = call.numbers("pads") or [0] * (2 * dims)
    extra = call.numbers("output_padding") or [0] * dims
    # Cut off less behind than in front is as much further output, which is output_padding.
    extra = [e + b - a for e, b, a in zip(extra, pads[:dims], pads[dims:], strict=True)]
    steps = zip(extra, stride, spread, strict=True)
    if any(e < 0 or e >= max(s, d) for e, s, d in steps):
        raise UnsupportedOperator(f"with pads {pads}")
    groups = call.attribute("group", 1)
    layer = layer_of(
        call,
        _TRANSPOSED[dims - 1],
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(kernel),
        weights={"weight": weight, "bias": call.optional(2)},
        stride=tuple(stride),
        padding=tuple(pads[:dims]),
        output_padding=tuple(extra),
        dilation=tuple(spread),
        groups=groups,
    )
    return call.builder.module(layer, x, 0)


@rule("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    x = call.builder.batch_at(call.value(), 0)
    if call.attribute("training_mode", 0):
        raise UnsupportedOperator("in training mode")
    if call.attribute("spatial", 1) != 1:
        raise UnsupportedOperator("with statistics of every pixel (spatial=0)")
    if not 1 <= len(x.rest) <= 4:
        raise UnsupportedOperator(f"on a tensor of shape {x.shape}")
    names = ("weight", "bias", "running_mean", "running_var")
    layer = layer_of(
        call,
        _NORMS[len(x.rest) - 1],
        x.rest[0],
        weights={name: call.array(index) for index, name in enumerate(names, start=1)},
        eps=call.attribute("epsilon", 1e-5),
        # ONNX weighs the old statistics, PyTorch the new ones.
        momentum=round(1.0 - call.attribute("momentum", 0.9), 6),
    )
    assert isinstance(layer.num_batches_tracked, torch.Tensor)
    layer.num_batches_tracked.zero_()
    return call.builder.module(layer.eval(), x, 0)


def _linear(call: Call, x: Value, weight: Array, bias: Array | None, axis: int | None) -> Value:
    """Apply ``weight (out, in)`` to the last axis of the module's tensor."""
    if not x.rest or x.rest[-1] != weight.shape[1]:
        raise UnsupportedOperator(f"of {x.shape} with {weight.shape[1]} columns of weights")
    layer = layer_of(
        call,
        nn.Linear,
        weight.shape[1],
        weight.shape[0],
        weights={"weight": weight, "bias": bias},
    )
    return call.builder.module(layer, x, axis)


@rule("Gemm")
def _gemm(call: Call) -> Value:
    a, b = call.input(0), call.input(1)
    turn_a, turn_b = bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0))
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    bias = call.optional(2)
    if bias is not None:
        bias = (bias * beta).astype(bias.dtype)
    # With the weights on the left, A B = (B^T A^T)^T: the same layer, the batch at the end.
    left = isinstance(b, Value)
    x, weight = (b, a) if left else (a, b)
    if not isinstance(x, Value) or not isinstance(weight, np.ndarray):
        raise UnsupportedOperator("of two tensors that both depend on the network's input")
    turned = turn_a if left else turn_b
    weight = weight if turned != left else weight.T
    weight = (weight * alpha).astype(weight.dtype)
    batch = int((turn_b if left else turn_a) != left)
    x = call.builder.batch_at(x, batch)
    if bias is not None:
        shape = (weight.shape[0], 1) if left else (1, weight.shape[0])
        if np.broadcast_shapes(bias.shape, shape) != shape:
            raise UnsupportedOperator(f"with a C of shape {bias.shape} for a result {shape}")
        bias = np.broadcast_to(bias, shape).reshape(-1)
    return _linear(call, x, weight, bias, axis=1 if left else 0)


@rule("MatMul")
def _matmul(call: Call) -> Value:
    a, b = call.inputs
    if isinstance(a, Value) and isinstance(b, Value):
        return _product(call, a, b)
    if isinstance(a, Value):
        return _right(call, a, call.array(1))
    return _left(call, call.value(1), call.array(0))


def _flat(weight: Array, x: Value) -> Array:
    """Return weights without the axes of size 1 in front, which only add to the rank."""
    while weight.ndim > 2 and weight.shape[0] == 1 and weight.ndim <= len(x.shape):
        weight = weight[0]
    if weight.ndim not in (1, 2):
        raise UnsupportedOperator(f"with weights of shape {weight.shape}")
    return weight


def _right(call: Call, x: Value, weight: Array) -> Value:
    """``x W`` with weights ``(in, out)`` or ``(in,)``."""
    weight = _flat(weight, x)
    last = len(x.shape) - 1
    if x.axis == last:
        x = call.builder.batch_at(x, 0) if last and x.shape[0] == 1 else _own(call, x)
    if weight.ndim == 2:
        return _linear(call, x, weight.T, _bias(call, weight.shape[1], last + 1), x.axis)
    found = _linear(call, x, weight[None], None, x.axis)
    return call.builder.reshape(found, found.shape[:-1], found.axis)


def _left(call: Call, x: Value, weight: Array) -> Value:
    """``W x`` with weights ``(out, in)`` or ``(in,)``."""
    weight = _flat(weight, x)
    rank = len(x.shape)
    rows = weight if weight.ndim == 2 else weight[None]
    if rank == 1:
        bias = _bias(call, len(rows), 1) if weight.ndim == 2 else None
        found = _linear(call, _own(call, x), rows, bias, None)
        return found if weight.ndim == 2 else call.builder.reshape(found, (), None)
    if x.shape[-1] == 1:
        bias = _bias(call, len(rows), rank, behind=1) if weight.ndim == 2 else None
        found = _linear(call, call.builder.batch_at(x, rank - 1), rows, bias, rank - 1)
    else:
        x = _own(call, x) if x.axis == rank - 2 else x
        turned = call.builder.function(torch.transpose, x, -2, -1, axis=x.axis)
        found = _linear(call, turned, rows, None, x.axis)
        found = call.builder.function(torch.transpose, found, -2, -1, axis=x.axis)
    if weight.ndim == 2:
        return found
    shape = found.shape[:-2] + found.shape[-1:]
    axis = found.axis if found.axis is None or found.axis < rank - 2 else rank - 2
    return call.builder.reshape(found, shape, axis)


def _own(call: Call, x: Value) -> Value:
    return call.builder.without_batch(x)


def _bias(call: Call, size: int, rank: int, behind: int = 0) -> Array | None:
    """Take the constant that the next node adds, where it is one number per output.

    The result has ``rank`` axes; ``behind`` axes of size 1 stand behind that of the outputs.
    """
    bias = call.bias
    if bias is None or bias.ndim > rank:
        return None
    column = bias.reshape((1,) * (rank - bias.ndim) + bias.shape)
    place = rank - 1 - behind
    if column.shape[place] not in (1, size) or column.size != column.shape[place]:
        return None
    call.took_bias = True
    return np.broadcast_to(bias.reshape(-1), (size,))


def _product(call: Call, a: Value, b: Value) -> Value:
    """Multiply two tensors, matrix by matrix, that both depend on the input."""
    if min(len(a.shape), len(b.shape)) < 3 or len(a.shape) != len(b.shape):
        raise UnsupportedOperator(f"of two tensors of shapes {a.shape} and {b.shape}")
    a, b = call.builder.batch_at(a, 0), call.builder.batch_at(b, 0)
    return call.builder.function(torch.matmul, a, b, axis=0)
