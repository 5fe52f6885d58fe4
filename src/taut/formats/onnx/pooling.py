"""Rules of pooling, of reductions over axes, and of upsampling."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import nn

from taut.errors import UnsupportedOperator
from taut.formats.onnx.call import Call, rule
from taut.formats.onnx.layers import Widths, images, pad, pads_of, window
from taut.formats.onnx.value import Value

_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEANS: tuple[Callable[..., nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_GLOBAL_MEANS: tuple[Callable[..., nn.Module], ...] = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
_GLOBAL_MAXIMA = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)


@rule("MaxPool")
def _max_pool(call: Call) -> Value:
    x, dims = images(call)
    call.attribute("storage_order")
    kernel, stride, spread = window(call, dims, None)
    widths = pads_of(call, x.rest[1:], kernel, stride, spread)
    padding = tuple(widths[0])
    if not _fits(widths, kernel):
        x, padding = pad(call, x, widths, -np.inf), (0,) * dims
    layer = _MAXIMA[dims - 1](
        tuple(kernel),
        tuple(stride),
        padding,
        tuple(spread),
        ceil_mode=bool(call.attribute("ceil_mode", 0)),
    )
    return _pooled(call, layer, x, kernel, spread)


@rule("AveragePool")
def _average_pool(call: Call) -> Value:
    x, dims = images(call)
    kernel, stride, spread = window(call, dims, None)
    if spread != [1] * dims:
        raise UnsupportedOperator(f"with dilations {spread}")
    widths = pads_of(call, x.rest[1:], kernel, stride, spread)
    counted = bool(call.attribute("count_include_pad", 0))
    rounding_up = bool(call.attribute("ceil_mode", 0))
    padding = tuple(widths[0])
    if not _fits(widths, kernel):
        if not counted:
            raise UnsupportedOperator(f"with uneven pads {widths} that are not counted")
        x, padding = pad(call, x, widths), (0,) * dims
    if rounding_up and counted and any(widths[0] + widths[1]):
        raise UnsupportedOperator("with both ceil_mode and count_include_pad")
    options: dict[str, Any] = {"ceil_mode": rounding_up, "count_include_pad": counted}
    layer = _MEANS[dims - 1](tuple(kernel), tuple(stride), padding, **options)
    return _pooled(call, layer, x, kernel, spread)


def _fits(widths: Widths, kernel: list[int]) -> bool:
    """Whether a pooling layer can pad like this by itself."""
    front, behind = widths
    return front == behind and all(2 * p <= k for p, k in zip(front, kernel, strict=True))


def _pooled(call: Call, layer: Any, x: Value, kernel: list[int], spread: list[int]) -> Value:
    """Add a pooling layer; refuse the sizes where ONNX and PyTorch count windows differently.

    With ``ceil_mode`` PyTorch leaves out a last window that begins behind the image.
    """
    found = call.builder.module(layer, x, 0)
    if layer.ceil_mode:
        sizes = zip(x.rest[1:], layer.padding, kernel, layer.stride, spread, strict=True)
        wanted = tuple(ceil((n + 2 * p - d * (k - 1) - 1) / s) + 1 for n, p, k, s, d in sizes)
        if found.rest[1:] != wanted:
            raise UnsupportedOperator(f"with ceil_mode and a last window of padding ({wanted})")
    return found


@rule("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call) -> Value:
    x, dims = images(call)
    kinds = _GLOBAL_MEANS if call.node.op_type == "GlobalAveragePool" else _GLOBAL_MAXIMA
    return call.builder.module(kinds[dims - 1](1), x, 0)


def _reduction(target: Callable[..., Any]) -> Callable[[Call], Value]:
    def build(call: Call) -> Value:
        x = call.value()
        rank = len(x.shape)
        axes = call.axes(rank, 1)
        keep = bool(call.attribute("keepdims", 1))
        if call.attribute("noop_with_empty_axes", 0) and not axes:
            return x
        axes = sorted(axes or range(rank))
        if x.axis in axes:
            x = call.builder.without_batch(x)
        batch = x.axis if keep else x.axis_without(axes)
        dims = tuple(x.dim(axis) for axis in axes)
        return call.builder.function(target, x, dims, keepdim=keep, axis=batch)

    return build


rule("ReduceMean")(_reduction(torch.mean))
rule("ReduceSum")(_reduction(torch.sum))
rule("ReduceMax")(_reduction(torch.amax))
rule("ReduceMin")(_reduction(torch.amin))


@rule("Upsample", "Resize")
def _upsample(call: Call) -> Value:
    x, dims = images(call)
    factors = _factors(call, x)
    _check_nearest(call)
    if factors[:2] != [1, 1] or any(f < 1 or f != int(f) for f in factors[2:]):
        raise UnsupportedOperator(f"by the factors {factors}, not whole numbers on the image axes,")
    if factors[2:] == [1] * dims:
        return x
    scale = tuple(float(f) for f in factors[2:])
    return call.builder.module(nn.Upsample(scale_factor=scale, mode="nearest"), x, 0)


def _factors(call: Call, x: Value) -> list[float]:
    if call.attribute("axes") is not None:
        raise UnsupportedOperator("of some axes only")
    resize = call.node.op_type == "Resize"
    array = call.optional(2 if resize and call.opset >= 11 else 1)
    found = call.attribute("scales") if array is None else array.tolist()
    if found:
        return [float(f) for f in found]
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOperator("that keeps an aspect ratio")
    return [wanted / size for wanted, size in zip(call.array(3).tolist(), x.shape, strict=True)]


def _check_nearest(call: Call) -> None:
    """Refuse all but nearest neighbours; for whole factors these placements agree."""
    mode = call.attribute("mode", "nearest")
    place = call.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = call.attribute("nearest_mode", "round_prefer_floor")
    for unused in ("cubic_coeff_a", "exclude_outside", "extrapolation_value", "antialias",
                   "keep_aspect_ratio_policy"):  # fmt: skip
        call.attribute(unused)
    if mode != "nearest":
        raise UnsupportedOperator(f"with mode {mode}, not nearest,")
    old = call.node.op_type == "Upsample" or call.opset < 11
    halves = place in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
    rounded = rounding in ("round_prefer_floor", "round_prefer_ceil")
    if not old and not (halves and rounded) and (place, rounding) != ("asymmetric", "floor"):
        raise UnsupportedOperator(f"with {place} coordinates and {rounding}")
