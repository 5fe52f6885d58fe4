"""Pulling windows of a convolution's output rows back to the windows of inputs they reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.operators.base import Pair

_DENSE = 8  # times the kernel that a window's matrix may be wide
_ENTRIES = 2**18  # of such a matrix, at most
_FEW = 8  # input channels below which a transposed convolution is slower than its products


def pull(rows: Tensor, weight: Tensor, stride: Pair, dilation: Pair, groups: int) -> Tensor:
    """Return ``(N, C, h', w')`` for rows ``(N, O, h, w)`` and a kernel ``(O, C / groups, kh, kw)``.

    A transposed convolution without padding: ``h' = (h - 1) * stride + dilation * (kh - 1) + 1``.
    """
    if groups == 1:
        single = rows.shape[2] == rows.shape[3] == 1
        if single or (weight.shape[1] <= _FEW and not _is_small(rows, weight, stride)):
            found: Tensor = _Products.apply(rows, weight, stride, dilation)  # type: ignore[no-untyped-call]
            return found
        if weight.shape[1] <= _FEW and dilation == (1, 1):
            return _unrolled(rows, weight, stride)
    return F.conv_transpose2d(rows, weight, None, stride, 0, 0, groups, dilation)


def left_over(
    size: Sequence[int],
    count: Sequence[int],
    kernel: Sequence[int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Pair:
    """Return the cells at the far border of an image of ``size`` that none of its windows reaches.

    ``count`` windows lie on it down and across. A transposed convolution calls this its output
    padding.
    """

    def one(axis: int) -> int:
        reach = (count[axis] - 1) * stride[axis] - 2 * padding[axis]
        return size[axis] - (reach + dilation[axis] * (kernel[axis] - 1) + 1)

    return one(0), one(1)


def _is_small(rows: Tensor, weight: Tensor, stride: Pair) -> bool:
    """Whether the window is so small that its whole matrix is cheaper than shifted sums."""
    pixels = 1
    for axis in range(2):
        pixels *= (rows.shape[2 + axis] - 1) * stride[axis] + weight.shape[2 + axis]
    entries = rows.shape[1] * rows.shape[2] * rows.shape[3] * pixels * weight.shape[1]
    few = pixels <= _DENSE * weight.shape[2] * weight.shape[3] and entries <= _ENTRIES
    return few and len(rows) > weight.shape[0]


def _unrolled(rows: Tensor, weight: Tensor, stride: Pair) -> Tensor:
    """Return the transposed convolution as a product with the matrix of the whole window."""
    count, outputs, height, width = rows.shape
    size = outputs * height * width
    unit = torch.eye(size, dtype=rows.dtype, device=rows.device)
    unit = unit.view(size, height, width, outputs).permute(0, 3, 1, 2)
    matrix = F.conv_transpose2d(unit, weight, None, stride)
    shape = matrix.shape[1:]
    matrix = matrix.permute(0, 2, 3, 1).flatten(1)
    found = rows.permute(0, 2, 3, 1).reshape(count, size) @ matrix
    return found.view(count, shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)


class _Products(torch.autograd.Function):
    """The transposed convolution as one matrix product and a sum of its shifted parts.

    For single pixels nothing has to be summed; for few input channels the library's
    kernels work on nearly empty vectors.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, stride: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.stride, ctx.dilation = stride, dilation
        count, outputs, height, width = rows.shape
        _, channels, taps, tips = weight.shape
        kernel = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
        parts = rows.permute(0, 2, 3, 1).reshape(-1, outputs) @ kernel
        parts = parts.view(count, height, width, taps, tips, channels)
        if height == width == 1 and dilation == (1, 1):
            return parts.view(count, taps, tips, channels).permute(0, 3, 1, 2)
        (s, t), (d, e) = stride, dilation
        reach = (height - 1) * s + 1, (width - 1) * t + 1
        found = rows.new_zeros(
            count, reach[0] + d * (taps - 1), reach[1] + e * (tips - 1), channels
        )
        for i in range(taps):
            for j in range(tips):
                place = found[:, i * d : i * d + reach[0] : s, j * e : j * e + reach[1] : t]
                place += parts[:, :, :, i, j]
        return found.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        to_rows, to_weight, _ = torch.ops.aten.convolution_backward(
            grads[0].to(weight.dtype).contiguous(),  # under autocast the three may differ
            rows.to(weight.dtype).contiguous(),
            weight.contiguous(),
            None,
            ctx.stride,
            (0, 0),
            ctx.dilation,
            True,
            (0, 0),
            1,
            (*ctx.needs_input_grad[:2], False),
        )
        return None if to_rows is None else to_rows.to(rows.dtype), to_weight, None, None
