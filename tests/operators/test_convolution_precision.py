"""Convolutions in float32 on every geometry, against the same in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.operators import Conv2d
from tests.counts import cases

SIDES = st.integers(1, 9)


@settings(max_examples=cases(300), deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    channels=st.sampled_from([1, 2, 3]),
    batch=st.sampled_from([1, 4, 16]),
)
def test_single_precision_is_double_precision_up_to_rounding(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels: int,
    batch: int,
) -> None:
    """Images one pixel wide, one channel, uneven strides: nothing is read beyond its end."""
    if any(size[i] + 2 * padding[i] < dilation[i] * (kernel[i] - 1) + 1 for i in range(2)):
        size = kernel[0] * dilation[0], kernel[1] * dilation[1]
    g = torch.Generator().manual_seed(sum(size) + batch)
    x = torch.rand(batch, channels, *size, generator=g)
    weight, bias = torch.randn(3, channels, *kernel, generator=g), torch.randn(3, generator=g)
    conv = Conv2d(weight, bias, stride, padding, dilation)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, dilation)
    torch.testing.assert_close(conv.forward(x).double(), exact, rtol=1e-4, atol=1e-4)
    rows = torch.randn(exact.shape, generator=g)
    point = torch.zeros(batch, channels, *size, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(point, weight.double(), None, stride, padding, dilation)
    (pulled,) = torch.autograd.grad(out, point, rows.double())
    (found,) = conv.transpose(rows, [(channels, *size)])
    torch.testing.assert_close(found.double(), pulled, rtol=1e-4, atol=1e-4)
