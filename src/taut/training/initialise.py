"""Initial weights: those that keep intervals at their width, and those of ordinary training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taut.errors import ConfigError
from taut.graph import Graph
from taut.graph.graph import Step
from taut.operators.affine import Conv2d, Linear
from taut.operators.arithmetic import Add
from taut.operators.base import Activation, Operator
from taut.operators.cells import Ends
from taut.operators.shape import Reshape
from taut.training.streams import stream


@dataclass(frozen=True, eq=False)
class _Layer:
    """The weight of a convolution or linear layer, and whether it reads a residual sum or cells."""

    name: str
    weight: nn.Parameter
    after_sum: bool
    of_ends: bool


@torch.no_grad()
def shi(model: nn.Module, graph: Graph, seed: int) -> None:
    r"""Draw the weights of convolutions and linear layers, all but the last layer's, in place.

    .. math:: W \sim N(0, \sigma^2), \qquad \sigma = \sqrt{2\pi} / n

    n is the fan-in, input channels of a group times kernel pixels. Then
    :math:`n\,E|W| = 2`, and where half of the neurons are active the expected radius of an
    interval stays what it is from one activation to the next. A layer that reads an activation
    of a residual sum has its weights halved, since the sum has doubled the radius. One that reads
    both ends of cells has weights :math:`\sqrt 2` times as large: the two ends move together, so
    that sums of two weights count, and half as many of them. Biases,
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
    for layer in _layers(model, graph, "shi")[:-1]:
        std = math.sqrt(2.0 * math.pi) / layer.weight[0].numel()
        std *= math.sqrt(2.0) if layer.of_ends else 1.0
        layer.weight.copy_(_normal(layer, seed) * (std / 2.0 if layer.after_sum else std))


@torch.no_grad()
def initialise(kind: str, model: nn.Module, graph: Graph, seed: int) -> None:
    r"""Draw the weights of convolutions and linear layers in place.

    With :math:`n = ck` inputs and :math:`m = fk` outputs of a weight of f filters over c
    channels (of a group) and k pixels:

    - ``xavier``: uniform in :math:`[-a, a]`, :math:`a = \sqrt{6 / (n + m)}`;
    - ``kaiming``: :math:`N(0, 2/n)`;
    - ``gaussian``: :math:`N(0, 0.01^2)`;
    - ``shi``: see :func:`shi`;
    - ``default``: nothing is drawn.

    Biases and batch normalisation keep what they have.

    Parameters
    ----------
    kind
        One of the five.
    model, graph, seed
        As for :func:`shi`.

    Raises
    ------
    ConfigError
        When a layer's weight is no parameter of the model.

    References
    ----------
    Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural
    networks* (2010), eq. 16; He et al., *Delving deep into rectifiers* (2015), eq. 10;
    Krizhevsky et al., *ImageNet classification with deep convolutional neural networks* (2012),
    Sec. 5.

    """
    if kind == "default":
        return
    if kind == "shi":
        shi(model, graph, seed)
        return
    for layer in _layers(model, graph, kind):
        layer.weight.copy_(_DRAWN[kind](layer, seed))


def _normal(layer: _Layer, seed: int) -> Tensor:
    """Return N(0, 1) in the shape of a layer's weight."""
    weight = layer.weight
    return torch.randn(weight.shape, generator=_stream(layer, seed), dtype=weight.dtype)


def _xavier(layer: _Layer, seed: int) -> Tensor:
    weight = layer.weight
    inputs, pixels = weight[0].numel(), weight[0, 0].numel()
    end = math.sqrt(6.0 / (inputs + len(weight) * pixels))
    drawn = torch.rand(weight.shape, generator=_stream(layer, seed), dtype=weight.dtype)
    return (2.0 * drawn - 1.0) * end


def _kaiming(layer: _Layer, seed: int) -> Tensor:
    return _normal(layer, seed) * math.sqrt(2.0 / layer.weight[0].numel())


def _gaussian(layer: _Layer, seed: int) -> Tensor:
    return _normal(layer, seed) * 0.01


_DRAWN: dict[str, Callable[[_Layer, int], Tensor]] = {
    "xavier": _xavier,
    "kaiming": _kaiming,
    "gaussian": _gaussian,
}


def _stream(layer: _Layer, seed: int) -> torch.Generator:
    return stream(torch.device("cpu"), seed, "init", layer.name)


def _layers(model: nn.Module, graph: Graph, kind: str) -> list[_Layer]:
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
                f'train.init = "{kind}" draws weights, but that of {step.name!r} is computed and '
                'no parameter; take the parametrization away or set train.init = "default"'
            )
        after_sum = _reads_a_sum(step, graph.steps, operators)
        of_ends = _reads_ends(step, graph.steps, operators)
        found.setdefault(name, _Layer(name, weight, after_sum, of_ends))
    return list(found.values())


def _reads_a_sum(step: Step, steps: tuple[Step, ...], operators: list[Operator | None]) -> bool:
    """Tell whether a layer reads an activation that reads the sum of two branches."""
    before = step.inputs[0]
    if not isinstance(operators[before], Activation):
        return False
    return isinstance(operators[steps[before].inputs[0]], Add)


def _reads_ends(step: Step, steps: tuple[Step, ...], operators: list[Operator | None]) -> bool:
    """Tell whether a layer reads both ends of cells, flattened or not."""
    before = step.inputs[0]
    if isinstance(operators[before], Reshape):
        before = steps[before].inputs[0]
    return isinstance(operators[before], Ends)
