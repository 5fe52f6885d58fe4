"""Convolutional stacks: the DM family and CNN7.

Notation of the docstrings: ``c@k/s/p`` is a convolution with c filters, kernel k x k, stride s
and zero padding p on every side, with a bias. A ReLU follows every layer but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from taut.errors import ConfigError

Shape = tuple[int, ...]


class Convolution(NamedTuple):
    """One convolution ``filters@kernel/stride/padding``."""

    filters: int
    kernel: int
    stride: int
    padding: int

    def extent(self, pixels: int) -> int:
        """Output height (or width) for an input of that many pixels."""
        return (pixels + 2 * self.padding - self.kernel) // self.stride + 1


def stack(
    input_shape: Shape,
    classes: int,
    convolutions: Sequence[Convolution],
    hidden: Sequence[int],
    *,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Convolutions, then fully connected layers of the widths ``hidden``, then the logits.

    A ReLU follows every layer but the logits; with ``batch_norm`` a batch normalisation stands
    between each of these layers and its ReLU.

    Parameters
    ----------
    input_shape
        (channels, height, width) of one image.
    classes
        Number of logits.
    convolutions
        In order.
    hidden
        Widths of the fully connected layers between the flattening and the logits.
    batch_norm
        Normalise before each ReLU.

    Raises
    ------
    ConfigError
        A malformed shape, fewer than two classes, or an image too small.
    """
    channels, height, width = _image(input_shape, classes)
    layers: list[nn.Module] = []
    for conv in convolutions:
        layers.append(nn.Conv2d(channels, conv.filters, conv.kernel, conv.stride, conv.padding))
        if batch_norm:
            layers.append(nn.BatchNorm2d(conv.filters))
        layers.append(nn.ReLU())
        channels, height, width = conv.filters, conv.extent(height), conv.extent(width)
        if height < 1 or width < 1:
            raise ConfigError(
                f"images of shape {tuple(input_shape)} are too small for this network: nothing is "
                f"left after its convolution {conv.filters}@{conv.kernel}/{conv.stride}/"
                f"{conv.padding}; use larger images or a network with more padding"
            )
    layers.append(nn.Flatten())
    features = channels * height * width
    for units in hidden:
        layers.append(nn.Linear(features, units))
        if batch_norm:
            layers.append(nn.BatchNorm1d(units))
        layers.append(nn.ReLU())
        features = units
    layers.append(nn.Linear(features, classes))
    return nn.Sequential(*layers)


def _image(input_shape: Shape, classes: int) -> tuple[int, int, int]:
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ConfigError(
            f"input_shape must be three positive integers (channels, height, width), "
            f"got {input_shape!r}"
        )
    if classes < 2:
        raise ConfigError(f"classes must be at least 2, got {classes}")
    channels, height, width = input_shape
    return channels, height, width


def dm_small(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (16, 32),
    strides: tuple[int, int] = (2, 1),
    padding: int = 1,
    fc: int = 100,
) -> nn.Sequential:
    """DM-small: two 4 x 4 convolutions and one hidden layer; ``16@4/2/p, 32@4/1/p, FC100``.

    Four paddings and two sets of filters of it are in circulation, hence the arguments.
    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    convolutions = [Convolution(c, 4, s, padding) for c, s in zip(filters, strides, strict=True)]
    return stack(input_shape, classes, convolutions, [fc])


def dm_medium(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (32, 64),
    padding: tuple[int, int] = (1, 1),
    fc: tuple[int, int] = (512, 512),
) -> nn.Sequential:
    """DM-medium: ``32@3/1/p, 32@4/2/q, 64@3/1/p, 64@4/2/q, FC512, FC512``.

    ``padding`` is (p, q): that of the 3 x 3 and that of the 4 x 4 convolutions.
    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    small, large = padding
    convolutions = [
        conv for c in filters for conv in (Convolution(c, 3, 1, small), Convolution(c, 4, 2, large))
    ]
    return stack(input_shape, classes, convolutions, fc)


def dm_large(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (64, 128),
    fc: int = 512,
) -> nn.Sequential:
    """DM-large: ``64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512``.

    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    return cnn7(input_shape, classes, filters=filters, fc=fc, batch_norm=False)


def cnn7(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (64, 128),
    strides: tuple[int, int, int, int, int] = (1, 1, 2, 1, 1),
    fc: int = 512,
    batch_norm: bool = True,
) -> nn.Sequential:
    """CNN7: the convolutions of DM-large with batch normalisation before every ReLU.

    ``64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512``; ``filters`` gives the two
    widths. ``strides`` is an argument because the networks called CNN7 for 56 and 64 pixel
    images differ in it.
    Source: Shi et al., *Fast certified robust training with short warmup*, NeurIPS 2021.
    """
    narrow, wide = filters
    convolutions = [
        Convolution(c, 3, s, 1)
        for c, s in zip((narrow, narrow, wide, wide, wide), strides, strict=True)
    ]
    return stack(input_shape, classes, convolutions, [fc], batch_norm=batch_norm)
