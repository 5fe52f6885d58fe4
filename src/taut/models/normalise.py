"""Normalisation as the first layer of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.errors import ConfigError


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel, inside the model.

    With the constants inside, the input of the model is the raw image in [0, 1] and every eps
    is in pixel units; the layer is affine, hence exact under every bound method.

    The constants are buffers of shape (C, 1, 1): they follow the model to its device and dtype,
    are saved with its weights, and are no parameters.

    Parameters
    ----------
    mean
        One value per channel, in units of the raw pixel.
    std
        One value per channel, positive, in units of the raw pixel.

    Raises
    ------
    ConfigError
        The lengths differ, a value is not finite, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ConfigError(
                f"mean has {len(mean)} values and std has {len(std)}: give one of each per channel"
            )
        if not all(math.isfinite(v) for v in (*mean, *std)) or min(std) <= 0:
            raise ConfigError(
                f"mean must be finite and std positive, got mean={tuple(mean)} and std={tuple(std)}"
            )
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map raw images (B, C, H, W) to normalised ones of the same shape."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the constants in ``print(model)``."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
