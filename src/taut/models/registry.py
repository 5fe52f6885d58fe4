"""The registry of named networks, read by the command line and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from taut.errors import ConfigError
from taut.models.convolutional import Shape, cnn7, dm_large, dm_medium, dm_small
from taut.models.normalise import Normalise

DIGITS: Shape = (1, 28, 28)
PHOTOS: Shape = (3, 32, 32)


@dataclass(frozen=True)
class Description:
    """What the registry says about one network.

    Attributes
    ----------
    name
        What :func:`build` takes.
    input_shape
        Default (channels, height, width).
    classes
        Default number of logits.
    factory
        ``factory(input_shape, classes)`` makes a fresh ``nn.Sequential``.
    layers
        The layer list, ``c@k/s/p`` for a convolution.
    source
        Paper, and who else uses this variant.
    """

    name: str
    input_shape: Shape
    classes: int
    factory: Callable[[Shape, int], nn.Sequential]
    layers: str
    source: str


@dataclass(frozen=True)
class Size:
    """How large a network is for one input shape.

    Attributes
    ----------
    parameters
        Trainable numbers.
    activations
        ReLU inputs per image.
    flat
        Values per image that enter the first fully connected layer.
    """

    parameters: int
    activations: int
    flat: int


_GOWAL = "Gowal et al. 2018 (IBP)"
_SHI = "Shi et al. 2021 (fast certified training)"
_SABR = "Müller et al. 2023 (SABR)"

_DESCRIPTIONS = (
    Description(
        "dm-small-valid",
        DIGITS,
        10,
        partial(dm_small, padding=0),
        "16@4/2/0, 32@4/1/0, FC100",
        f"{_GOWAL}, the original without padding",
    ),
    Description(
        "dm-small-p1",
        DIGITS,
        10,
        partial(dm_small, padding=1),
        "16@4/2/1, 32@4/1/1, FC100",
        f"{_GOWAL}, as in Fan and Li 2021 (AdvIBP)",
    ),
    Description(
        "dm-small-p2",
        DIGITS,
        10,
        partial(dm_small, padding=2),
        "16@4/2/2, 32@4/1/2, FC100",
        f"{_GOWAL}, as in Lyu et al. 2021 (LBP, ParamRamp)",
    ),
    Description(
        "dm-small-crown8-16",
        DIGITS,
        10,
        partial(dm_small, filters=(8, 16), strides=(2, 2), padding=1, fc=256),
        "8@4/2/1, 16@4/2/1, FC256",
        "Zhang et al. 2020 (CROWN-IBP), two layers of width 2; Liang et al. 2023 call it DM-small",
    ),
    Description(
        "dm-medium-valid",
        DIGITS,
        10,
        partial(dm_medium, padding=(0, 0)),
        "32@3/1/0, 32@4/2/0, 64@3/1/0, 64@4/2/0, FC512, FC512",
        f"{_GOWAL}, the original without padding",
    ),
    Description(
        "dm-medium-p1",
        DIGITS,
        10,
        partial(dm_medium, padding=(1, 1)),
        "32@3/1/1, 32@4/2/1, 64@3/1/1, 64@4/2/1, FC512, FC512",
        f"{_GOWAL}, as in Zhang et al. 2020 (CROWN-IBP) and Fan and Li 2021 (AdvIBP)",
    ),
    Description(
        "dm-medium-p2",
        DIGITS,
        10,
        partial(dm_medium, padding=(1, 2)),
        "32@3/1/1, 32@4/2/2, 64@3/1/1, 64@4/2/2, FC512, FC512",
        f"{_GOWAL}, as in Lyu et al. 2021 (LBP, ParamRamp)",
    ),
    Description(
        "dm-large",
        PHOTOS,
        10,
        dm_large,
        "64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512",
        _GOWAL,
    ),
    Description(
        "cnn7",
        PHOTOS,
        10,
        cnn7,
        "64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512, batch norm after each",
        f"{_SHI}, {_SABR}, CTBench",
    ),
    Description(
        "cnn7-nobn",
        PHOTOS,
        10,
        partial(cnn7, batch_norm=False),
        "64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512",
        f"{_SHI}, without batch norm; the layers of DM-large",
    ),
    Description(
        "cnn7-narrow",
        PHOTOS,
        10,
        partial(cnn7, filters=(32, 64), fc=216),
        "32@3/1/1, 32@3/1/1, 64@3/2/1, 64@3/1/1, 64@3/1/1, FC216, batch norm after each",
        f"{_SABR}, width ablation",
    ),
    Description(
        "cnn7-wide",
        PHOTOS,
        10,
        partial(cnn7, filters=(96, 192)),
        "96@3/1/1, 96@3/1/1, 192@3/2/1, 192@3/1/1, 192@3/1/1, FC512, batch norm after each",
        f"{_SABR}, width ablation",
    ),
)

MODELS: Mapping[str, Description] = MappingProxyType({d.name: d for d in _DESCRIPTIONS})


def _describe(name: str) -> Description:
    if name not in MODELS:
        raise ConfigError(f"no model is called {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name]


def build(
    name: str,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """Make a fresh network by name, with PyTorch's default initialisation.

    Parameters
    ----------
    name
        One of :data:`MODELS`.
    input_shape
        (channels, height, width) of one image; the description's where left out.
    classes
        Number of logits; the description's where left out.
    mean
        With ``std``, prepends :class:`~taut.models.Normalise`: one value per channel.
    std
        See ``mean``.

    Returns
    -------
    A plain ``nn.Sequential`` that maps (B, *input_shape) to logits (B, classes).

    Raises
    ------
    ConfigError
        Unknown name, malformed shape, or constants that do not fit the channels.
    """
    entry = _describe(name)
    shape = entry.input_shape if input_shape is None else tuple(input_shape)
    network = entry.factory(shape, entry.classes if classes is None else classes)
    if mean is None and std is None:
        return network
    if mean is None or std is None:
        raise ConfigError("give mean and std together, one value per channel each, or neither")
    if len(mean) != shape[0]:
        raise ConfigError(
            f"mean and std have {len(mean)} values but images of shape {shape} have {shape[0]} "
            "channels: give one value per channel"
        )
    return nn.Sequential(Normalise(mean, std), *network)


def size(name: str, input_shape: Sequence[int] | None = None, classes: int | None = None) -> Size:
    """Size of a named network, without allocating its weights.

    Arguments and errors are those of :func:`build`.
    """
    entry = _describe(name)
    shape = entry.input_shape if input_shape is None else tuple(input_shape)
    activations, flat = 0, 0
    with torch.device("meta"), torch.no_grad():
        network = build(name, shape, classes).eval()
        value = torch.empty(1, *shape)
        for layer in network:
            value = layer(value)
            if isinstance(layer, nn.ReLU):
                activations += value.numel()
            elif isinstance(layer, nn.Flatten):
                flat = value.numel()
    return Size(sum(p.numel() for p in network.parameters()), activations, flat)
