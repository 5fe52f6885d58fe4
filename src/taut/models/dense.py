"""DenseNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from taut.models.activations import Activation, Shape
from taut.models.chain import Chain


def densenet(
    input_shape: Shape,
    classes: int,
    *,
    blocks: Sequence[int] = (2, 4, 4),
    growth: int = 32,
    fc: int = 512,
    activation: Activation = "relu",
) -> nn.Sequential:
    """DenseNet with layers ``BN, ReLU, 4k@1/1/0, BN, ReLU, k@3/1/1`` of growth k = 32.

    ``2k@3/1/1`` without activation; blocks of such layers, each of which puts its k channels
    before those of its input; between two blocks ``BN, ReLU``, a 1 x 1 convolution to half the
    channels, and an average over 2 x 2 windows; after the last BN, ReLU; FC512, ReLU; logits.
    All convolutions have a bias.

    Parameters
    ----------
    input_shape, classes, activation
        See :func:`taut.models.stack`.
    blocks
        Layers of each block.
    growth
        Channels k that each layer adds.
    fc
        Units of the hidden layer.

    Raises
    ------
    ConfigError
        As :func:`taut.models.stack`.

    Source: Xu et al., *Automatic perturbation analysis for scalable certified robustness and
    beyond*, NeurIPS 2020, published code.
    """
    chain = Chain.start(input_shape, classes, activation).conv(2 * growth, 3, 1, 1)
    for place, layers in enumerate(blocks):
        if place:
            chain.norm().activate().conv(chain.channels // 2, 1).average_pool(2)
        for _ in range(layers):
            new = chain.branch().norm().activate().conv(4 * growth, 1)
            new.norm().activate().conv(growth, 3, 1, 1)
            chain.concat(new, chain.branch())
    chain.norm().activate().flatten().linear(fc).activate()
    return chain.linear(classes).network()
