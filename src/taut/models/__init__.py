"""The networks of the literature, by name.

>>> import torch
>>> from taut import models
>>> net = models.build("dm-small-p1", input_shape=(1, 28, 28), classes=10)
>>> models.size("dm-small-p1").parameters
550406

Every network takes another activation, and has a small version for tests:

>>> leaky = models.build("resnext-cifar", activation="leaky-relu")
>>> models.small("densenet-cifar")(torch.rand(2, 3, 8, 8)).shape
torch.Size([2, 3])
"""

from taut.models.activations import ACTIVATIONS, ParamRamp
from taut.models.cells import Cells, cells_from, cells_of
from taut.models.chain import Concat, Residual
from taut.models.convolutional import (
    Convolution,
    cnn7,
    crown_3layer,
    dm_large,
    dm_medium,
    dm_small,
    fully_connected,
    stack,
    unpadded,
)
from taut.models.dense import densenet
from taut.models.description import Description
from taut.models.large import Inception, alexnet, inception_v1, vgg11
from taut.models.normalise import Normalise
from taut.models.registry import MODELS, Size, build, size, small
from taut.models.residual import basic_resnet, resnet18, resnext, wide_resnet

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Cells",
    "Concat",
    "Convolution",
    "Description",
    "Inception",
    "Normalise",
    "ParamRamp",
    "Residual",
    "Size",
    "alexnet",
    "basic_resnet",
    "build",
    "cells_from",
    "cells_of",
    "cnn7",
    "crown_3layer",
    "densenet",
    "dm_large",
    "dm_medium",
    "dm_small",
    "fully_connected",
    "inception_v1",
    "resnet18",
    "resnext",
    "size",
    "small",
    "stack",
    "unpadded",
    "vgg11",
    "wide_resnet",
]
