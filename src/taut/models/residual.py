"""Residual networks: wide ResNets, ResNeXts and ResNet-18.

Notation as in :mod:`taut.models.convolutional`; BN is batch normalisation. A shortcut is the
identity where a block keeps the shape, else a 1 x 1 convolution of the block's stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from taut.models.activations import Activation, Shape
from taut.models.chain import Chain

Norms = Literal["first", "all"]
"""Which batch normalisations the blocks of a network have."""


def _shortcut(chain: Chain, body: Chain, stride: int, *, norm: bool, bias: bool = True) -> Chain:
    shortcut = chain.branch()
    if stride != 1 or chain.channels != body.channels:
        shortcut.conv(body.channels, 1, stride, bias=bias)
        if norm:
            shortcut.norm()
    return shortcut


def _hidden(chain: Chain, fc: int, *, norm: bool) -> None:
    chain.linear(fc)
    if norm:
        chain.norm()
    chain.activate()


def _wide_block(chain: Chain, filters: int, stride: int, norms: Norms) -> None:
    """``BN, ReLU, c@3/1/1, [BN,] ReLU, c@3/s/1``; the stride sits on the second convolution."""
    body = chain.branch().norm().activate().conv(filters, 3, 1, 1)
    if norms == "all":
        body.norm()
    body.activate().conv(filters, 3, stride, 1)
    chain.add(body, _shortcut(chain, body, stride, norm=False))


def wide_resnet(
    input_shape: Shape,
    classes: int,
    *,
    stem: int = 16,
    filters: tuple[int, int, int] = (160, 320, 640),
    norms: Norms = "all",
    pool: int | None = 7,
    fc: int | None = None,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Wide ResNet with one block ``BN, ReLU, c@3/1/1, BN, ReLU, c@3/s/1`` a stage.

    ``16@3/1/1`` without activation; blocks of ``filters`` with strides 1, 2, 2; BN, ReLU;
    an average over 7 x 7 windows; logits.

    Parameters
    ----------
    input_shape, classes, activation
        See :func:`taut.models.stack`.
    stem
        Filters of the first convolution.
    filters
        Filters of each stage's block.
    norms
        ``all`` as above; with ``first`` no block has its second BN, and none follows the blocks.
    pool
        Extent of the windows averaged over; None flattens without pooling.
    fc
        Units of a hidden layer, without BN; None goes to the logits at once.

    Raises
    ------
    ConfigError
        As :func:`taut.models.stack`.

    Source: Xu et al., *Automatic perturbation analysis for scalable certified robustness and
    beyond*, NeurIPS 2020, published code.
    """
    chain = Chain.start(input_shape, classes, activation).conv(stem, 3, 1, 1)
    for width, stride in zip(filters, (1, 2, 2), strict=True):
        _wide_block(chain, width, stride, norms)
    if norms == "all":
        chain.norm()
    chain.activate()
    if pool is not None:
        chain.average_pool(pool)
    chain.flatten()
    if fc is not None:
        _hidden(chain, fc, norm=False)
    return chain.linear(classes).network()


def _grouped_block(chain: Chain, width: int, groups: int, stride: int, norms: Norms) -> None:
    """``g@1, BN, ReLU, g@3/s/1 in groups, [BN,] ReLU, 2g@1 [, BN]``, shortcut, ReLU."""
    every = norms == "all"
    body = chain.branch().conv(width, 1).norm().activate().conv(width, 3, stride, 1, groups=groups)
    if every:
        body.norm()
    body.activate().conv(2 * width, 1)
    if every:
        body.norm()
    chain.add(body, _shortcut(chain, body, stride, norm=every)).activate()


def resnext(
    input_shape: Shape,
    classes: int,
    *,
    stem: int = 16,
    blocks: tuple[int, int, int] = (2, 2, 2),
    filters: tuple[int, int, int] = (16, 32, 64),
    groups: int = 2,
    norms: Norms = "first",
    fc: int = 512,
    activation: Activation = "relu",
) -> nn.Sequential:
    """ResNeXt with blocks ``g@1/1/0, BN, ReLU, g@3/s/1 in groups, ReLU, 2g@1/1/0``.

    ``16@3/1/1``, ReLU; stages of blocks with g from ``filters`` and strides 1, 2, 2, that of a
    stage in its first block; a ReLU after each sum; FC512, ReLU; logits.

    Parameters
    ----------
    input_shape, classes, activation
        See :func:`taut.models.stack`.
    stem
        Filters of the first convolution.
    blocks
        Blocks of each stage.
    filters
        g of each stage, a multiple of ``groups``.
    groups
        Groups of the 3 x 3 convolutions, which the paper calls the cardinality.
    norms
        ``first`` as above; with ``all`` a BN follows every layer but the logits: the first
        convolution, the three of each block, that of a shortcut, and FC512.
    fc
        Units of the hidden layer.

    Raises
    ------
    ConfigError
        As :func:`taut.models.stack`.

    Source: Xu et al., *Automatic perturbation analysis for scalable certified robustness and
    beyond*, NeurIPS 2020; with ``all`` Shi et al., *Fast certified robust training with short
    warmup*, NeurIPS 2021; published code of both.
    """
    chain = Chain.start(input_shape, classes, activation).conv(stem, 3, 1, 1)
    if norms == "all":
        chain.norm()
    chain.activate()
    for count, width, first in zip(blocks, filters, (1, 2, 2), strict=True):
        for place in range(count):
            _grouped_block(chain, width, groups, 1 if place else first, norms)
    chain.flatten()
    _hidden(chain, fc, norm=norms == "all")
    return chain.linear(classes).network()


def _basic_block(chain: Chain, filters: int, stride: int, *, bias: bool) -> None:
    """``c@3/s/1, BN, ReLU, c@3/1/1, BN``, shortcut with BN, ReLU."""
    body = chain.branch().conv(filters, 3, stride, 1, bias=bias).norm().activate()
    body.conv(filters, 3, 1, 1, bias=bias).norm()
    chain.add(body, _shortcut(chain, body, stride, norm=True, bias=bias)).activate()


def basic_resnet(
    input_shape: Shape,
    classes: int,
    *,
    stem: int = 16,
    filters: tuple[int, int, int] = (128, 256, 512),
    fc: int = 512,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Wide ResNet with one block ``c@3/s/1, BN, ReLU, c@3/1/1, BN`` a stage.

    ``16@3/1/1``, BN, ReLU; blocks of ``filters`` with strides 1, 2, 2, a BN on each shortcut and
    a ReLU after each sum; FC512, BN, ReLU; logits. All convolutions have a bias.
    Source: Shi et al., *Fast certified robust training with short warmup*, NeurIPS 2021,
    published code.
    """
    chain = Chain.start(input_shape, classes, activation).conv(stem, 3, 1, 1).norm().activate()
    for width, stride in zip(filters, (1, 2, 2), strict=True):
        _basic_block(chain, width, stride, bias=True)
    chain.flatten()
    _hidden(chain, fc, norm=True)
    return chain.linear(classes).network()


def resnet18(
    input_shape: Shape,
    classes: int,
    *,
    filters: Sequence[int] = (64, 128, 256, 512),
    activation: Activation = "relu",
) -> nn.Sequential:
    """ResNet-18: ``64@7/2/3``, BN, ReLU, maximum over 3/2/1, and two basic blocks a stage.

    The first stage has stride 1 and every further one stride 2 in its first block; then an
    average over all pixels and the logits. No convolution has a bias. The published network has
    four stages; ``filters`` may give fewer.
    Source: He et al., *Deep residual learning for image recognition*, CVPR 2016, Table 1, with
    1 x 1 convolutions on the shortcuts that change the shape.
    """
    chain = Chain.start(input_shape, classes, activation)
    chain.conv(filters[0], 7, 2, 3, bias=False).norm().activate().max_pool(3, 2, 1)
    for stage, width in enumerate(filters):
        _basic_block(chain, width, 2 if stage else 1, bias=False)
        _basic_block(chain, width, 1, bias=False)
    return chain.adaptive_pool(1).flatten().linear(classes).network()
