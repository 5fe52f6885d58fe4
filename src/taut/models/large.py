"""Networks for large photographs: AlexNet, VGG-11 and Inception V1.

Notation as in :mod:`taut.models.convolutional`. Dropout, of share 0.5 unless said otherwise, does
nothing in evaluation mode, in which networks are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from taut.models.activations import Activation, Shape
from taut.models.chain import Chain


def alexnet(
    input_shape: Shape,
    classes: int,
    *,
    filters: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
    pooled: int = 6,
    fc: int = 4096,
    activation: Activation = "relu",
) -> nn.Sequential:
    """AlexNet for one device: ``64@11/4/2, P, 192@5/1/2, P, 384@3/1/1, 256@3/1/1, 256@3/1/1, P``.

    P is a maximum over 3/2/0. Then an average onto ``pooled`` x ``pooled`` values, which is the
    identity for 224 pixels, and twice dropout and FC4096. There is no response normalisation.
    Source: Krizhevsky, *One weird trick for parallelizing convolutional neural networks*, 2014;
    Krizhevsky et al., *ImageNet classification with deep convolutional neural networks*, 2012.
    """
    chain = Chain.start(input_shape, classes, activation)
    first, second, *rest = filters
    chain.conv(first, 11, 4, 2).activate().max_pool(3, 2)
    chain.conv(second, 5, 1, 2).activate().max_pool(3, 2)
    for width in rest:
        chain.conv(width, 3, 1, 1).activate()
    chain.max_pool(3, 2).adaptive_pool(pooled).flatten()
    for _ in range(2):
        chain.dropout(0.5).linear(fc).activate()
    return chain.linear(classes).network()


def vgg11(
    input_shape: Shape,
    classes: int,
    *,
    filters: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    fc: int = 4096,
    activation: Activation = "relu",
) -> nn.Sequential:
    """VGG-11: stages of ``c@3/1/1``, each ended by a maximum over 2/2/0; FC4096 twice.

    Dropout follows both FC4096.
    Source: Simonyan and Zisserman, *Very deep convolutional networks for large-scale image
    recognition*, ICLR 2015, Table 1, configuration A.
    """
    chain = Chain.start(input_shape, classes, activation)
    for stage in filters:
        for width in stage:
            chain.conv(width, 3, 1, 1).activate()
        chain.max_pool(2, 2)
    chain.flatten()
    for _ in range(2):
        chain.linear(fc).activate().dropout(0.5)
    return chain.linear(classes).network()


class Inception(NamedTuple):
    """Filters of the branches of one inception module, in the paper's order.

    Attributes
    ----------
    one
        1 x 1.
    three
        1 x 1 reduction, then 3 x 3.
    five
        1 x 1 reduction, then 5 x 5.
    pool
        1 x 1 after a maximum over 3/1/1.
    """

    one: int
    three: tuple[int, int]
    five: tuple[int, int]
    pool: int


GOOGLENET: tuple[tuple[Inception, ...], ...] = (
    (
        Inception(64, (96, 128), (16, 32), 32),
        Inception(128, (128, 192), (32, 96), 64),
    ),
    (
        Inception(192, (96, 208), (16, 48), 64),
        Inception(160, (112, 224), (24, 64), 64),
        Inception(128, (128, 256), (24, 64), 64),
        Inception(112, (144, 288), (32, 64), 64),
        Inception(256, (160, 320), (32, 128), 128),
    ),
    (
        Inception(256, (160, 320), (32, 128), 128),
        Inception(384, (192, 384), (48, 128), 128),
    ),
)
"""The nine modules of Szegedy et al., Table 1, by the resolution they work at."""


def _inception(chain: Chain, filters: Inception) -> None:
    one = chain.branch().conv(filters.one, 1).activate()
    three = chain.branch().conv(filters.three[0], 1).activate()
    three.conv(filters.three[1], 3, 1, 1).activate()
    five = chain.branch().conv(filters.five[0], 1).activate()
    five.conv(filters.five[1], 5, 1, 2).activate()
    pool = chain.branch().max_pool(3, 1, 1).conv(filters.pool, 1).activate()
    chain.concat(one, three, five, pool)


def inception_v1(
    input_shape: Shape,
    classes: int,
    *,
    stem: tuple[int, int, int] = (64, 64, 192),
    modules: Sequence[Sequence[Inception]] = GOOGLENET,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Inception V1, GoogLeNet: ``64@7/2/3, P, 64@1/1/0, 192@3/1/1, P`` and nine modules.

    P is a maximum over 3/2/1; one stands also after the second and the seventh module. An average
    over all pixels, dropout of share 0.4 and the logits end the network. Convolutions have a bias
    and a ReLU, as in the paper, and there is no batch normalisation; response normalisation and
    the auxiliary classifiers, which only training uses, are left out. The pools are padded where
    the paper leaves rounding open, which gives its sizes 112, 56, 28, 14 and 7 for 224 pixels.
    Source: Szegedy et al., *Going deeper with convolutions*, CVPR 2015, Table 1.
    """
    chain = Chain.start(input_shape, classes, activation)
    first, reduction, second = stem
    chain.conv(first, 7, 2, 3).activate().max_pool(3, 2, 1)
    chain.conv(reduction, 1).activate().conv(second, 3, 1, 1).activate()
    for resolution in modules:
        chain.max_pool(3, 2, 1)
        for filters in resolution:
            _inception(chain, filters)
    return chain.adaptive_pool(1).flatten().dropout(0.4).linear(classes).network()
