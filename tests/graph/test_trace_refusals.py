"""Calls without a rule are refused by name, never approximated and never mixed up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import ModelError, UnsupportedOperator
from taut.graph import trace

W = torch.linspace(-1, 1, 6).view(3, 2)  # tracing has three images

REFUSED = {
    "softmax": (lambda x: F.softmax(x, 1), (4,), "softmax"),
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), (4,), "layer_norm"),
    "quotient": (lambda x: x / x.sum(1, keepdim=True), (4,), "divisor that depends on the input"),
    "cube": (lambda x: x**3, (4,), "only squares"),
    "exponential": (lambda x: 2**x, (4,), "only squares"),
    "matmul": (lambda x: x @ x.transpose(1, 2), (2, 3), "both depend on the input"),
    "flip of the batch": (lambda x: x.flip(0), (4,), "every image of a batch alike"),
    "roll of all": (lambda x: x.roll(1), (3,), "every image of a batch alike"),
    "permuted batch": (lambda x: x.permute(1, 0, 2), (3, 2), "every image of a batch alike"),
    "batch index": (lambda x: x[:3], (4,), "begin with ':'"),
    "batch behind dots": (lambda x: x[..., :3, :], (4,), "batch axis"),
    "indexed by the input": (lambda x: x[:, x.argmax(1)], (4,), "argmax"),
    "chunk of the batch": (lambda x: torch.cat(x.chunk(1), 1), (4,), "along the batch axis"),
    "cat of the batch": (lambda x: torch.cat([x]), (4,), "along the batch axis"),
    "unbatched conv": (lambda x: F.conv2d(x, torch.ones(3, 3, 1, 1)), (3, 4), "conv2d takes"),
    "unbatched pool": (lambda x: F.avg_pool2d(x, 2), (4, 4), "avg_pool2d takes"),
    "unbatched signal": (lambda x: F.max_pool1d(x, 2), (4,), "max_pool1d takes"),
    "even same": (lambda x: F.conv1d(x, torch.ones(2, 2, 2), padding="same"), (2, 4), "odd"),
    "circular": (lambda x: F.pad(x, (1, 1), mode="circular"), (2, 4), "mode='circular'"),
    "infinite": (lambda x: F.pad(x, (1, 1), value=-torch.inf), (2, 4), "infinite value"),
    "pad of the batch": (lambda x: F.pad(x, (0, 0, 1, -1)), (4,), "of the batch axis"),
    "bicubic": (lambda x: F.interpolate(x, (3, 3), mode="bicubic"), (1, 2, 2), "mode='bicubic'"),
    "uneven maximum": (lambda x: F.adaptive_max_pool2d(x, 2), (1, 3, 3), "size that divides"),
    "dilated padding": (lambda x: F.max_pool2d(x, 3, 1, 1, 2), (1, 5, 5), "and a dilation"),
    "indices": (lambda x: x.max(1, keepdim=True)[0], (4,), "max"),
    "sum of the batch": (lambda x: x.sum(0, keepdim=True).expand(3, 4), (4,), "batch"),
    "value per image": (lambda x: x + torch.ones(3, 4), (4,), "axis for the images"),
    "part per image": (lambda x: torch.cat([x, W], 1), (2,), "differs from image to image"),
    "ranks": (lambda x: x[:, 0] + x, (3, 3), "batch axes do not meet"),
    "grows by an axis": (lambda x: x + torch.ones(1, 1, 4), (4,), "batch|grows"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_in_one_line(name: str) -> None:
    function, shape, words = REFUSED[name]

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).flatten(1)

    with pytest.raises(UnsupportedOperator, match=words) as caught:
        trace(Plain(), shape)
    assert "\n" not in str(caught.value)


def test_modules_with_another_padding_mode_are_refused() -> None:
    for layer in (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), nn.CircularPad1d(1)):
        with pytest.raises(UnsupportedOperator, match=r"Conv1d with padding_mode|CircularPad1d"):
            trace(nn.Sequential(layer, nn.Flatten()), (1, 4))
    pooled = nn.Sequential(nn.MaxPool2d(2, return_indices=True))
    with pytest.raises((UnsupportedOperator, ModelError)):
        trace(pooled, (1, 4, 4))
