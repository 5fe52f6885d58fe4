"""The networks of the literature, by name.

>>> from taut import models
>>> net = models.build("dm-small-p1", input_shape=(1, 28, 28), classes=10)
>>> models.size("dm-small-p1").parameters
550406
"""

from taut.models.convolutional import Convolution, cnn7, dm_large, dm_medium, dm_small, stack
from taut.models.normalise import Normalise
from taut.models.registry import MODELS, Description, Size, build, size

__all__ = [
    "MODELS",
    "Convolution",
    "Description",
    "Normalise",
    "Size",
    "build",
    "cnn7",
    "dm_large",
    "dm_medium",
    "dm_small",
    "size",
    "stack",
]
