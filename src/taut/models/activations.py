"""Activations by name, as a factory of networks takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from taut.errors import ConfigError
from taut.operators.ramp import ParamRamp

__all__ = ["ACTIVATIONS", "Activation", "Maker", "ParamRamp", "maker"]

Shape = tuple[int, ...]
Maker = Callable[[Shape], nn.Module]
"""Makes the activation for values of a shape, (C, H, W) or (N,), without the batch."""

Activation = str | type[nn.Module] | Maker
"""What a factory takes: see :func:`maker`."""

ACTIVATIONS: Mapping[str, Maker] = MappingProxyType(
    {
        "relu": lambda shape: nn.ReLU(),
        "leaky-relu": lambda shape: nn.LeakyReLU(0.01),
        "param-ramp": lambda shape: ParamRamp(shape, eta=0.01),
        "sigmoid": lambda shape: nn.Sigmoid(),
        "tanh": lambda shape: nn.Tanh(),
    }
)
"""Activations by name. The outer slope of ``leaky-relu`` and ``param-ramp`` is 0.01."""


def maker(activation: Activation) -> Maker:
    """Return the function that makes an activation for values of a given shape.

    Parameters
    ----------
    activation
        A name of :data:`ACTIVATIONS`; a class of ``torch.nn``, made without arguments; or any
        other callable, called with the shape (C, H, W) or (N,) of the values it will be applied
        to, so that an activation can have a parameter for each neuron.

    Raises
    ------
    ConfigError
        Unknown name; or, when the function returned is called, no module came back.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"no activation is called {activation!r}; choose one of {', '.join(ACTIVATIONS)}, "
                "or give a function of the shape that makes one"
            )
        return ACTIVATIONS[activation]
    if isinstance(activation, type) and activation.__module__.startswith("torch.nn."):
        torch_class = activation  # these know no shapes: nn.ReLU(shape) would work in place
        return lambda shape: torch_class()
    return lambda shape: _checked(activation(shape))


def _checked(made: object) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"the activation made a {type(made).__name__}; give a function that takes a shape and "
            "returns an nn.Module"
        )
    return made
