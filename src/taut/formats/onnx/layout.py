"""Images for networks that take them in another layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taut.formats.onnx.network import OnnxNetwork


class ChannelsLast(nn.Module):
    """Images (B, C, H, W) as (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels to the end."""
        return torch.permute(x, (0, 2, 3, 1))


def accepting_images(network: OnnxNetwork) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network as one that takes images (B, C, H, W), and the shape of those.

    A network of inputs (C, H, W) is returned itself. One of inputs (H, W, C), known by a last
    axis of size 1 or 3 behind a first one that is neither, gets the axes permuted. One whose
    inputs have fewer or more than three axes, (784,) or (1, 784, 1), gets the pixels in the
    order of the image, channel by channel and row by row; it takes images of any shape with as
    many pixels, and the shape returned is that of its inputs.
    """
    shape = network.input_shape
    if len(shape) == 1:
        return nn.Sequential(nn.Flatten(), network), shape
    if len(shape) != 3:
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape), network), shape
    if shape[2] in (1, 3) and shape[0] not in (1, 3):
        return nn.Sequential(ChannelsLast(), network), (shape[2], *shape[:2])
    return network, shape
