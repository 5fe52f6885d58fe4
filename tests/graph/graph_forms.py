"""Small modules, one for each form in which affine operators, pooling and arithmetic come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Tensor]


class Net(nn.Module):
    """A function of the image, and of constants, in front of a linear layer."""

    def __init__(self, function: Function, shape: tuple[int, ...], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        self.constants = tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, value)
        with torch.no_grad():
            out = function(torch.zeros(3, *shape), *constants.values())
        self.head = nn.Linear(out[0].numel(), 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.function(x, *(getattr(self, name) for name in self.constants))
        return self.head(found.flatten(1))


def of(function: Function, *shape: int, **constants: Tensor) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(len(shape))
    return Net(function, shape, **constants).double(), shape


def module(*layers: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    return of(nn.Sequential(*layers), *shape)


class Asks(nn.Module):
    """A module that branches on a shape, which fx cannot follow."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 0:
            raise ValueError("no channels")
        return self.inner(x)


EITHER_WAY = pytest.mark.parametrize("wrap", [lambda m: m, Asks], ids=["fx", "export"])


class UpBack(nn.Module):
    """A transposed convolution that is told its output size."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x, output_size=[8, 7])


class Parts(nn.Module):
    """Dense and split: several results, some of them read twice."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.split([1, 2, 3], dim=1)
        joined = torch.cat((b, a, c, x[:, :1] * 2.0), 1)
        first, second = joined.chunk(2, dim=-1)
        return torch.stack([first, second.relu()], 2)


W3 = torch.linspace(-1, 1, 12).view(4, 3)
KERNEL = torch.linspace(-1, 1, 24)

CONVOLUTIONS = {
    "conv1d": module(nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU(), shape=(3, 9)),
    "conv1d-groups": module(nn.Conv1d(4, 4, 3, dilation=2, groups=2, bias=False), shape=(4, 9)),
    "conv1d-same": module(nn.Conv1d(2, 3, 3, padding="same", dilation=2), shape=(2, 7)),
    "F.conv1d": of(lambda x, w: F.conv1d(x, w, stride=2, padding=1), 2, 8, w=KERNEL.view(4, 2, 3)),
    "F.conv2d-same": of(
        lambda x, w: F.conv2d(x, w, padding="same"), 2, 4, 5, w=KERNEL.view(4, 2, 1, 3)
    ),
    "conv-transpose2d": module(
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), 1, (1, 0), groups=2),
        nn.BatchNorm2d(6),
        shape=(4, 3, 4),
    ),
    "conv-transpose1d": module(nn.ConvTranspose1d(2, 3, 4, 3, 1, 2, dilation=2), shape=(2, 5)),
    "conv-transpose-size": module(UpBack(), shape=(2, 4, 4)),
    "F.conv_transpose2d": of(
        lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1),
        4,
        3,
        3,
        w=KERNEL.view(4, 3, 2, 1),
    ),
    "F.conv_transpose1d": of(
        lambda x, w: F.conv_transpose1d(x, w, padding=1), 4, 5, w=KERNEL.view(4, 2, 3)
    ),
}

POOLING = {
    "avg_pool2d": module(nn.AvgPool2d(3, 2, 1), shape=(2, 5, 6)),
    "avg_pool2d-ceil": module(
        nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False), shape=(2, 5, 4)
    ),
    "F.avg_pool2d": of(lambda x: F.avg_pool2d(x, 2, padding=1, divisor_override=3), 2, 4, 4),
    "avg_pool1d": module(nn.AvgPool1d(3, 2, 1), shape=(2, 7)),
    "F.avg_pool1d": of(lambda x: F.avg_pool1d(x, 2, ceil_mode=True), 2, 5),
    "adaptive_avg": module(nn.AdaptiveAvgPool2d((2, None)), shape=(2, 4, 3)),
    "adaptive_avg-uneven": module(nn.AdaptiveAvgPool2d((3, 2)), shape=(2, 5, 5)),
    "F.adaptive_avg": of(lambda x: F.adaptive_avg_pool2d(x, 1), 3, 3, 4),
    "adaptive_avg1d": module(nn.AdaptiveAvgPool1d(2), shape=(2, 6)),
    "adaptive_avg1d-uneven": of(lambda x: F.adaptive_avg_pool1d(x, 3), 2, 5),
    "max_pool2d": module(nn.MaxPool2d(2), shape=(2, 5, 4)),
    "max_pool2d-padded": module(nn.MaxPool2d(3, 2, 1), shape=(2, 5, 6)),
    "max_pool2d-ceil": module(nn.MaxPool2d((3, 2), 2, (1, 0), ceil_mode=True), shape=(2, 6, 5)),
    "max_pool2d-dilated": of(lambda x: F.max_pool2d(x, 2, 1, dilation=2), 2, 5, 4),
    "torch.max_pool2d": of(lambda x: torch.max_pool2d(x, 2, stride=1, padding=1), 2, 3, 3),
    "max_pool1d": module(nn.MaxPool1d(3, 2, 1), shape=(2, 6)),
    "F.max_pool1d": of(lambda x: F.max_pool1d(x, 2, ceil_mode=True), 2, 5),
    "adaptive_max": module(nn.AdaptiveMaxPool2d((2, 1)), shape=(2, 4, 3)),
    "F.adaptive_max": of(lambda x: F.adaptive_max_pool2d(x, 2), 2, 4, 2),
}

LAYOUT = {
    "permute": of(lambda x: torch.relu(x.permute(0, 3, 1, 2)) + x.permute((0, 3, 1, 2)), 2, 3, 4),
    "torch.permute": of(lambda x: torch.permute(x, dims=(0, 2, 1)), 2, 3),
    "transpose": of(lambda x: x.transpose(1, -1).swapaxes(1, 2).movedim(3, 1), 2, 3, 4),
    "torch.transpose": of(lambda x: torch.transpose(x, 1, 2) + torch.swapdims(x, -1, 1), 2, 3),
    "getitem": of(lambda x: x[:, 1:, ::2, -1], 3, 4, 2),
    "getitem-none": of(lambda x: x[:, None, :, 0] - x[..., 1, None], 3, 2),
    "getitem-list": of(lambda x: x[:, [2, 0, 2]] * x[:, 1:2], 3, 2),
    "getitem-index": of(lambda x, i: x[:, i], 3, 2, i=torch.tensor([1, 1, 0])),
    "index_select": of(lambda x, i: x.index_select(1, i), 3, 2, i=torch.tensor([2, 0])),
    "narrow": of(lambda x: x.narrow(1, 1, 2) + x.select(1, 0)[:, None], 3, 2),
    "parts": of(Parts(), 6, 4),
    "split-list": of(lambda x: torch.cat(x.split(2, 1)[::-1], 1), 5, 2),
    "chunk-whole": of(lambda x: torch.cat(torch.chunk(x, 3, -1), 1), 2, 6),
    "tensor_split": of(lambda x: torch.tensor_split(x, (1, 3), dim=1)[1].relu(), 5),
    "unbind": of(lambda x: x.unbind(2)[1] + torch.unbind(x, dim=2)[0], 2, 3),
    "stack": of(lambda x: torch.stack((x, -x), -1), 2, 3),
    "cat-1": of(lambda x: torch.cat([x, x.relu(), 2 * x], dim=-2), 2, 3, 2),
    "pad": of(lambda x: F.pad(x, (1, -1, 0, 2), value=0.5), 2, 3, 4),
    "pad-reflect": of(lambda x: F.pad(x, (1, 2), mode="reflect"), 2, 4),
    "zero-pad": module(nn.ZeroPad2d((1, 2, 0, 3)), nn.ConstantPad2d(1, -2.0), shape=(2, 3, 3)),
    "pad1d": module(
        nn.ZeroPad1d(2), nn.ConstantPad1d((0, 1), 3.0), nn.ReflectionPad1d(1), shape=(2, 3)
    ),
    "pad2d": module(nn.ReflectionPad2d((1, 2, 0, 1)), nn.ReplicationPad2d(1), shape=(2, 3, 3)),
    "replication1d": module(nn.ReplicationPad1d((2, 1)), shape=(2, 3)),
    "expand": of(
        lambda x: x.unsqueeze(2).expand(-1, -1, 4) + x[:, :, None].expand(x.shape[0], 3, 4), 3
    ),
    "expand_as": of(lambda x: x[:, :1].expand_as(x) * x, 3, 2),
    "broadcast_to": of(lambda x: torch.broadcast_to(x[:, :1], (x.shape[0], 3, 2)), 3, 2),
    "repeat": of(lambda x: x.repeat(1, 2, 3) + torch.tile(x, (1, 2, 3)), 2, 3),
    "repeat_interleave": of(lambda x: x.repeat_interleave(2, dim=1), 2, 3),
    "flip": of(lambda x: x.flip(1, 2) + torch.flip(x, [-1]) + torch.fliplr(x), 2, 3),
    "roll": of(lambda x: x.roll(1, 1) + torch.roll(x, (1, 2), dims=(1, 2)), 2, 3),
    "upsample": module(nn.Upsample(scale_factor=2), shape=(2, 3, 2)),
    "upsample-bilinear": module(
        nn.Upsample((5, 4), mode="bilinear", align_corners=True), shape=(2, 3, 2)
    ),
    "upsample-linear": module(nn.Upsample(scale_factor=1.7, mode="linear"), shape=(2, 5)),
    "upsampling": module(
        nn.UpsamplingNearest2d(5), nn.UpsamplingBilinear2d((3, 7)), shape=(1, 2, 3)
    ),
    "interpolate": of(
        lambda x: (
            F.interpolate(x, size=(x.shape[2] * 2, 3), mode="bilinear") + F.interpolate(x, (6, 3))
        ),
        2,
        3,
        2,
    ),
    "interpolate-exact": of(
        lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"), 2, 4
    ),
    "pixel_shuffle": module(nn.PixelShuffle(2), nn.PixelUnshuffle(2), shape=(4, 2, 3)),
    "F.pixel": of(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 4, 2, 2),
    "channel_shuffle": module(nn.ChannelShuffle(2), shape=(4, 2, 2)),
    "unflatten": of(lambda x: x.unflatten(1, (2, 3)).mean(1), 6),
}

ARITHMETIC = {
    "mean": of(lambda x: x.mean((2, 3)) + x.mean(-1, keepdim=True).sum(dim=[2, 3]), 2, 3, 4),
    "torch.sum": of(lambda x: torch.sum(x, 1) - torch.mean(x, dim=1), 2, 3),
    "neg": of(lambda x: (-x).relu() + torch.neg(x) + x.neg(), 3),
    "constants": of(
        lambda x, c: (c - x) + (x - c) * c + (1 - x) / c - torch.rsub(x, 2.0), 3, c=W3[0]
    ),
    "alpha": of(
        lambda x, c: (
            torch.sub(x, c, alpha=2) + torch.add(c, x, alpha=3) + x.sub(x.relu(), alpha=-2)
        ),
        3,
        c=W3[1],
    ),
    "grows": of(lambda x, c: x + c, 1, 3, c=W3),
    "grows-mul": of(lambda x, c: c[None] * x - x / (c + 2), 4, 1, c=W3),
    "maximum": of(
        lambda x: torch.maximum(x[:, :2], x[:, 2:]) + torch.max(x[:, :2], x[:, 1:3]), 4, 2
    ),
    "maximum-broadcast": of(lambda x: torch.maximum(x, x[:, :1]), 4, 2),
    "minimum": of(lambda x: torch.minimum(x[:, :2], x[:, 2:]) + x[:, :2].min(x[:, 1:3]), 4),
    "maximum-constant": of(lambda x, c: torch.maximum(x, c) - torch.maximum(c, x * 2), 1, 3, c=W3),
    "minimum-constant": of(lambda x, c: torch.minimum(x, c) - torch.min(c, x * 2), 3, c=W3[2]),
    "amax": of(lambda x: x.amax((2, 3)) + torch.amax(x, -1).amin(2), 2, 3, 4),
    "amin": of(
        lambda x: x.amin((1, 3), keepdim=True) * torch.amax(x, dim=2, keepdim=True), 2, 3, 4
    ),
    "product": of(lambda x: x * x.relu() + torch.mul(x, x.flip(1)), 4),
    "gates": of(lambda x: x * x.mean((2, 3), keepdim=True), 3, 2, 2),
    "square": of(lambda x: x * x + x**2 + torch.square(x) + x.pow(2.0) + x**1, 4),
    "matmul": of(lambda x, w: x @ w + torch.matmul(x, w), 2, 4, w=W3),
    "matmul-left": of(lambda x, w: w @ x, 3, 2, w=W3),
    "matmul-left-deep": of(lambda x, w: torch.matmul(w, x), 2, 3, 5, w=W3),
    "matmul-vector": of(lambda x, w: x @ w, 2, 4, w=W3[:, 0]),
    "mm": of(lambda x, w: x.mm(w), 4, w=W3),
    "addmm": of(lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2.0), 4, w=W3, b=W3[0]),
    "zeros_like": of(lambda x: torch.cat([x, torch.zeros_like(x)], 1), 3, 2),
}

FORMS = {**CONVOLUTIONS, **POOLING, **LAYOUT, **ARITHMETIC}
