"""Stacks: the DM family, CNN7, their relatives, and fully connected networks.

Notation of the docstrings: ``c@k/s/p`` is a convolution with c filters, kernel k x k, stride s
and zero padding p on every side, with a bias; FCn is a fully connected layer of n units. An
activation, a ReLU unless another is asked for, follows every layer but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from taut.models.activations import Activation, Shape
from taut.models.chain import Chain


class Convolution(NamedTuple):
    """One convolution ``filters@kernel/stride/padding``."""

    filters: int
    kernel: int
    stride: int
    padding: int


def stack(
    input_shape: Shape,
    classes: int,
    convolutions: Sequence[Convolution],
    hidden: Sequence[int],
    *,
    batch_norm: bool = False,
    hidden_norm: bool | None = None,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Convolutions, then fully connected layers of the widths ``hidden``, then the logits.

    An activation follows every layer but the logits; with ``batch_norm`` a batch normalisation
    stands between each of these layers and its activation.

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
        Normalise before each activation.
    hidden_norm
        The same for the fully connected layers alone; as ``batch_norm`` where left out.
    activation
        See :func:`taut.models.activations.maker`.

    Raises
    ------
    ConfigError
        A malformed shape, fewer than two classes, or an image too small.
    """
    chain = Chain.start(input_shape, classes, activation)
    for convolution in convolutions:
        chain.conv(*convolution)
        if batch_norm:
            chain.norm()
        chain.activate()
    chain.flatten()
    for units in hidden:
        chain.linear(units)
        if batch_norm if hidden_norm is None else hidden_norm:
            chain.norm()
        chain.activate()
    return chain.linear(classes).network()


def fully_connected(
    input_shape: Shape,
    classes: int,
    *,
    hidden: Sequence[int] = (512,),
    activation: Activation = "relu",
) -> nn.Sequential:
    """Fully connected layers on the flattened image, in the order (C, H, W).

    The FC-3 and FC-5 of the paper, whose numbers do not count the layers, have
    ``hidden`` (512,) and (512, 128).
    Source: Zhang et al., *Boosting verified training for robust image classifications via
    abstraction*, CVPR 2023, published code.
    """
    return stack(input_shape, classes, (), hidden, activation=activation)


def dm_small(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (16, 32),
    strides: tuple[int, int] = (2, 1),
    padding: int = 1,
    fc: int = 100,
    activation: Activation = "relu",
) -> nn.Sequential:
    """DM-small: two 4 x 4 convolutions and one hidden layer; ``16@4/2/p, 32@4/1/p, FC100``.

    Four paddings and several sets of filters of it are in circulation, hence the arguments.
    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    convolutions = [Convolution(c, 4, s, padding) for c, s in zip(filters, strides, strict=True)]
    return stack(input_shape, classes, convolutions, [fc], activation=activation)


def dm_medium(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (32, 64),
    padding: tuple[int, int] = (1, 1),
    fc: tuple[int, int] = (512, 512),
    activation: Activation = "relu",
) -> nn.Sequential:
    """DM-medium: ``32@3/1/p, 32@4/2/q, 64@3/1/p, 64@4/2/q, FC512, FC512``.

    ``padding`` is (p, q): that of the 3 x 3 and that of the 4 x 4 convolutions.
    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    small, large = padding
    convolutions = [
        conv for c in filters for conv in (Convolution(c, 3, 1, small), Convolution(c, 4, 2, large))
    ]
    return stack(input_shape, classes, convolutions, fc, activation=activation)


def dm_large(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (64, 128),
    fc: int = 512,
    activation: Activation = "relu",
) -> nn.Sequential:
    """DM-large: ``64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512``.

    Source: Gowal et al., *On the effectiveness of interval bound propagation*, 2018.
    """
    return cnn7(
        input_shape, classes, filters=filters, fc=fc, batch_norm=False, activation=activation
    )


def crown_3layer(
    input_shape: Shape,
    classes: int,
    *,
    kernel: int = 3,
    filters: tuple[int, int] = (4, 8),
    fc: int = 64,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Three convolutions of CROWN-IBP's sweep: ``4@k/1/1, 8@k/1/1, 8@4/4/0, FC64``.

    Width w multiplies all of these numbers of filters and units.
    Source: Zhang et al., *Towards stable and efficient training of verifiably robust neural
    networks*, ICLR 2020, published code.
    """
    first, second = filters
    convolutions = [
        Convolution(first, kernel, 1, 1),
        Convolution(second, kernel, 1, 1),
        Convolution(second, 4, 4, 0),
    ]
    return stack(input_shape, classes, convolutions, [fc], activation=activation)


def unpadded(
    input_shape: Shape,
    classes: int,
    *,
    filters: Sequence[int] = (8, 16),
    fc: Sequence[int] = (100,),
    activation: Activation = "relu",
) -> nn.Sequential:
    """AdvIBP's "new" networks: 3 x 3 convolutions without padding, the first of stride 2.

    ``c1@3/2/0, c2@3/1/0, c3@3/1/0, ...`` and fully connected layers.
    Source: Fan and Li, *Adversarial training and provable robustness: a tale of two
    objectives*, AAAI 2021, published code.
    """
    strides = [2] + [1] * (len(filters) - 1)
    convolutions = [Convolution(c, 3, s, 0) for c, s in zip(filters, strides, strict=True)]
    return stack(input_shape, classes, convolutions, fc, activation=activation)


def cnn7(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int] = (64, 128),
    strides: tuple[int, int, int, int, int] = (1, 1, 2, 1, 1),
    fc: int = 512,
    batch_norm: bool = True,
    hidden_norm: bool | None = None,
    activation: Activation = "relu",
) -> nn.Sequential:
    """CNN7: the convolutions of DM-large with batch normalisation before every activation.

    ``64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512``; ``filters`` gives the two
    widths. ``strides`` is an argument because the networks called CNN7 for 56 and 64 pixel
    images differ in it, and ``hidden_norm`` because not all of them normalise after FC512.
    Source: Shi et al., *Fast certified robust training with short warmup*, NeurIPS 2021.
    """
    narrow, wide = filters
    convolutions = [
        Convolution(c, 3, s, 1)
        for c, s in zip((narrow, narrow, wide, wide, wide), strides, strict=True)
    ]
    return stack(
        input_shape,
        classes,
        convolutions,
        [fc],
        batch_norm=batch_norm,
        hidden_norm=hidden_norm,
        activation=activation,
    )
