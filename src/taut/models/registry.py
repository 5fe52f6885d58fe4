"""The registry of named networks, read by the command line and the documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from taut.errors import ConfigError
from taut.models.activations import Activation, Shape, maker
from taut.models.branching import BRANCHING
from taut.models.cells import cells_from
from taut.models.description import Description
from taut.models.normalise import Normalise
from taut.models.stacks import STACKS

SMALL_CLASSES = 3
"""Logits of every small version."""


@dataclass(frozen=True)
class Size:
    """How large a network is for one input shape.

    Attributes
    ----------
    parameters
        Trainable numbers.
    activations
        Inputs of the ReLU units, or of the other activation it has, per image.
    flat
        Values per image that enter the first fully connected layer.
    """

    parameters: int
    activations: int
    flat: int


MODELS: Mapping[str, Description] = MappingProxyType({d.name: d for d in (*STACKS, *BRANCHING)})


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
    activation: Activation | None = None,
    cells: int | Sequence[int] | Mapping[str, Any] | None = None,
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
    activation
        What stands in the place of the network's own activation, which most often is ReLU: a
        name of ``taut.models.ACTIVATIONS``, a class of ``torch.nn``, or a function that takes
        the shape (C, H, W) or (N,) of what it is applied to and returns a module.
    cells
        Prepends :class:`~taut.models.Cells`: their number, or all their arguments by name. The
        network then reads what they emit.

    Returns
    -------
    A plain ``nn.Sequential`` that maps (B, *input_shape) to logits (B, classes).

    Raises
    ------
    ConfigError
        Unknown name or activation, malformed shape, images too small for the network, or
        constants that do not fit the channels.
    """
    entry = _describe(name)
    shape = entry.input_shape if input_shape is None else tuple(input_shape)
    if cells is not None:
        if mean is not None or std is not None:
            raise ConfigError("cells read the raw pixels: give cells, or mean and std, not both")
        grid = cells_from(cells)
        if grid.thresholds.dim() == 2 and len(grid.thresholds) != shape[0]:
            raise ConfigError(
                f"cells are given for {len(grid.thresholds)} channels but images of shape {shape} "
                f"have {shape[0]}: give one entry per channel, or one for all"
            )
        seen = (grid.channels(shape[0]), *shape[1:])
        return nn.Sequential(grid, *build(name, seen, classes, activation=activation))
    network = entry.factory(
        shape,
        entry.classes if classes is None else classes,
        activation=entry.activation if activation is None else activation,
    )
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


def small(name: str, *, activation: Activation | None = None) -> nn.Sequential:
    """Make the small version of a named network: its layers, a few channels wide.

    It has every kind of layer and connection of the network, for tests that bound, attack or
    solve it exactly. Long rows of equal stages are shortened. It maps
    (B, *MODELS[name].small_shape) to logits (B, 3).

    Parameters
    ----------
    name
        One of :data:`MODELS`.
    activation
        As in :func:`build`.

    Raises
    ------
    ConfigError
        Unknown name or activation.
    """
    entry = _describe(name)
    narrow = partial(entry.factory, **entry.narrow)
    chosen = entry.activation if activation is None else activation
    return narrow(entry.small_shape, SMALL_CLASSES, activation=chosen)


def size(
    name: str,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    *,
    activation: Activation | None = None,
) -> Size:
    """Size of a named network, without allocating its weights.

    Arguments and errors are those of :func:`build`. What activations see is counted by the shapes
    they are made for.
    """
    entry = _describe(name)
    make = maker(entry.activation if activation is None else activation)
    counts: list[int] = []

    def counted(shape: Shape) -> nn.Module:
        counts.append(math.prod(shape))
        return make(shape)

    with torch.device("meta"):
        network = build(name, input_shape, classes, activation=counted)
    first = next(module for module in network.modules() if isinstance(module, nn.Linear))
    return Size(sum(p.numel() for p in network.parameters()), sum(counts), first.in_features)
