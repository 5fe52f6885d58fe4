"""What the registry says about one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from taut.models.activations import Shape

Factory = Callable[..., nn.Sequential]
"""``factory(input_shape, classes, *, activation)`` makes a fresh network."""


@dataclass(frozen=True)
class Description:
    """What the registry says about one network.

    Attributes
    ----------
    name
        What :func:`taut.models.build` takes.
    input_shape
        Default (channels, height, width).
    classes
        Default number of logits.
    factory
        ``factory(input_shape, classes, activation=...)`` makes a fresh ``nn.Sequential``.
    layers
        The layer list, ``c@k/s/p`` for a convolution.
    source
        Paper, and who else uses this variant.
    activation
        Default activation by name, see :data:`taut.models.ACTIVATIONS`.
    narrow
        Further arguments of ``factory`` that make its small version: the same layers, a few
        channels wide.
    small_shape
        Images of the small version.
    """

    name: str
    input_shape: Shape
    classes: int
    factory: Factory
    layers: str
    source: str
    activation: str
    narrow: Mapping[str, Any]
    small_shape: Shape


class Family(NamedTuple):
    """A factory, and what makes a small version of any of its networks."""

    factory: Factory
    narrow: Mapping[str, Any]
    small_shape: Shape

    def member(
        self,
        name: str,
        input_shape: Shape,
        classes: int,
        layers: str,
        source: str,
        *,
        activation: str = "relu",
        **arguments: Any,
    ) -> Description:
        """Return the description of the network that the factory makes with ``arguments``."""
        return Description(
            name, input_shape, classes, partial(self.factory, **arguments), layers, source,
            activation, self.narrow, self.small_shape,
        )  # fmt: skip
