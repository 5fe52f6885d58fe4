"""Initial weights under which intervals neither grow nor shrink from layer to layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from taut.errors import ConfigError
from taut.graph import Graph
from taut.graph.graph import Step
from taut.operators.affine import Conv2d, Linear
from taut.operators.arithmetic import Add
from taut.operators.base import Activation, Operator
from taut.training.streams import stream


@dataclass(frozen=True, eq=False)
class _Layer:
    """The weight of a convolution or linear layer, and whether it reads a residual sum."""

    name: str
    weight: nn.Parameter
    after_sum: bool


@torch.no_grad()
def shi(model: nn.Module, graph: Graph, seed: int) -> None:
    r"""Draw the weights of convolutions and linear layers, all but the last layer's, in place.

    .. math:: W \sim N(0, \sigma^2), \qquad \sigma = \sqrt{2\pi} / n

    n is the fan-in, input channels of a group times kernel pixels. Then
    :math:`n\,E|W| = 2`, and where half of the neurons are active the expected radius of an
    interval stays what it is from one activation to the next. A layer that reads an activation
    of a residual sum has its weights halved, since the sum has doubled the radius. Biases,
    batch normalisation and the last layer keep what they have.

    Parameters
    ----------
    model
        The network.
    graph
        Its trace.
    seed
        Seed of the run; every weight is drawn from a stream of its own, on the CPU.

    Raises
    ------
    ConfigError
        When a layer's weight is no parameter of the model, as under a parametrization.

    References
    ----------
    Shi et al., *Fast certified robust training with short warmup* (2021), Sec. 3.2, and its
    published code for residual sums.

    """
    cpu = torch.device("cpu")
    for layer in _layers(model, graph)[:-1]:
        weight = layer.weight
        std = math.sqrt(2.0 * math.pi) / weight[0].numel()
        drawn = torch.randn(
            weight.shape, generator=stream(cpu, seed, "init", layer.name), dtype=weight.dtype
        )
        weight.copy_(drawn * (std / 2.0 if layer.after_sum else std))


def _layers(model: nn.Module, graph: Graph) -> list[_Layer]:
    """Return the layers in the order of the graph, each once."""
    parameters = {p.data_ptr(): (name, p) for name, p in model.named_parameters()}
    operators = [None if step.template is None else step.template.make() for step in graph.steps]
    found: dict[str, _Layer] = {}
    for step, operator in zip(graph.steps, operators, strict=True):
        if not isinstance(operator, Conv2d | Linear):
            continue
        name, weight = parameters.get(operator.weight.data_ptr(), ("", None))
        if weight is None:
            raise ConfigError(
                f'train.init = "shi" draws weights, but that of {step.name!r} is computed and no '
                'parameter; take the parametrization away or set train.init = "default"'
            )
        after_sum = _reads_a_sum(step, graph.steps, operators)
        found.setdefault(name, _Layer(name, weight, after_sum))
    return list(found.values())


def _reads_a_sum(step: Step, steps: tuple[Step, ...], operators: list[Operator | None]) -> bool:
    """Tell whether a layer reads an activation that reads the sum of two branches."""
    before = step.inputs[0]
    if not isinstance(operators[before], Activation):
        return False
    return isinstance(operators[steps[before].inputs[0]], Add)
