"""The l_1 norm of weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from taut.training.parameters import no_weights

On = Literal["weights", "all"]


def l1(model: nn.Module, on: On) -> Tensor:
    r"""Return :math:`\sum |\theta|`, a scalar with gradient.

    Parameters
    ----------
    model
        The network.
    on
        ``weights``: the weights of convolutions and linear layers; ``all``: every parameter that
        is trained, biases and batch normalisation too, but not the range r of a
        :class:`~taut.operators.ramp.ParamRamp`, which is no weight: r = 0 would be a dead
        neuron, and r is infinite while its right part is off. Nor learned thresholds of cells.

    References
    ----------
    Mueller et al., *Certified training: small boxes are all you need* (2023), published code
    (``all``); Mao et al., *CTBench: a library and benchmark for certified training* (2024),
    published code (``weights``).

    """
    chosen = _weights(model) if on == "weights" else _all(model)
    terms = [parameter.abs().sum() for parameter in chosen]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _weights(model: nn.Module) -> Iterator[Tensor]:
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | _ConvNd):
            weight = module.weight
            if id(weight) not in seen:  # tied layers count once
                seen.add(id(weight))
                yield weight


def _all(model: nn.Module) -> Iterator[Tensor]:
    others = no_weights(model)
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in others:
            yield parameter
