"""The traced model: nodes that refer to the module's own, live parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.errors import ModelError
from taut.graph.merging import merge_ends
from taut.graph.network import Network, Node
from taut.operators.affine import Conv2d, Linear
from taut.operators.base import Operator, Shape
from taut.operators.norm import coefficients, per_channel
from taut.operators.registry import BatchNormSource, Template
from taut.operators.shape import Identity, Reshape

Statistics = Mapping[int, tuple[Tensor, Tensor]]
"""Mean and (biased) variance per batch-norm node, from the clean batch, with gradients."""


@dataclass(frozen=True)
class Step:
    """A node before its operator is made: the template reads parameters when asked."""

    name: str
    template: Template | None
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced module; parameters stay live, so gradients of a bound reach the optimiser.

    A graph holds no tensor of its own and no result: every call starts afresh.
    ``folded`` maps a linear or convolution node to the batch norm that follows it
    (and nothing else reads it), so that bounds pass both as one operator;
    ``pixel_major`` holds the flatten nodes before small linear layers, which keep the
    order convolutions leave in memory.
    """

    module: nn.Module
    steps: tuple[Step, ...]
    folded: Mapping[int, int]
    pixel_major: frozenset[int] = frozenset()
    fixed: tuple[str, ...] = ()
    """Functional dropout and batch norm traced as evaluated, whose mode cannot be read again."""

    @property
    def input_shape(self) -> Shape:
        """Shape of one image."""
        return self.steps[0].shape

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.steps[-1].shape[0]

    def instance(self, statistics: Statistics | None = None) -> Network:
        """Return the operators with the parameters of this moment.

        Batch normalisation takes ``statistics`` where given, else the running ones.
        Make one per step and share it among the bounds of that step.
        """
        given = statistics or {}
        swallowed = set(self.folded.values())
        nodes = [Node(0, self.steps[0].name, None, (), self.input_shape)]
        for index, step in enumerate(self.steps[1:], start=1):
            if index in swallowed:
                operator: Operator = Identity()
            else:
                operator = self._operator(index, given)
            if index in self.folded:
                norm = self.folded[index]
                scale, shift = coefficients(self._norm(norm), *given.get(norm, ()))
                assert isinstance(operator, Linear | Conv2d)
                operator = operator.scaled(scale, shift)
            if index in self.pixel_major:
                operator = Reshape(step.shape, pixel_major=True)
            elif step.inputs[0] in self.pixel_major:
                assert isinstance(operator, Linear)
                image = self.steps[self.steps[step.inputs[0]].inputs[0]].shape
                operator = operator.pixel_major(image)
            nodes.append(Node(index, step.name, operator, step.inputs, step.shape))
        return Network(tuple(merge_ends(nodes)))

    @property
    def has_clean_pass(self) -> bool:
        """Whether a clean pass does more than evaluate: statistics or dropout, in training mode."""
        templates = [step.template for step in self.steps if step.template is not None]
        return bool(self.fixed) or any(_in_training(template) for template in templates)

    def clean(self, x: Tensor) -> tuple[Tensor, Network]:
        """Evaluate points in the module's own mode; return the logits and the step's network.

        In training mode batch normalisation uses the statistics of this batch and
        updates the running ones, as PyTorch does; the network returned, for the bounds
        of the same step, holds them too, with their gradients. Dropout drops here, and
        here only: bounds are those of the network as it is evaluated.

        Raises :class:`~taut.errors.ModelError` for a module in training mode whose functional
        calls were traced in evaluation mode.
        """
        if self.fixed and any(module.training for module in self.module.modules()):
            raise ModelError(
                f"the model is in training mode, but {self.fixed[0]} was traced in evaluation "
                "mode and cannot follow; use nn.Dropout and nn.BatchNorm2d instead of F.dropout, "
                "F.batch_norm and branches on self.training"
            )
        with parametrize.cached():  # one weight a call, also where computing it has an effect
            return self._clean(x)

    def _clean(self, x: Tensor) -> tuple[Tensor, Network]:
        if not self.has_clean_pass:
            network = self.instance()
            return network(x), network
        values: list[Tensor] = [x]
        statistics: dict[int, tuple[Tensor, Tensor]] = {}
        for index, step in enumerate(self.steps[1:], start=1):
            assert step.template is not None
            inputs = [values[i] for i in step.inputs]
            if not _in_training(step.template):
                value = self._operator(index, {}).forward(*inputs)
            elif step.template.norm is not None:
                value, mean, var = _normalise(inputs[0], step.template.norm)
                statistics[index] = (mean, var)
            else:
                assert step.template.noise is not None
                value = step.template.noise(inputs[0])
            values.append(value)
        return values[-1], self.instance(statistics)

    def _norm(self, index: int) -> BatchNormSource:
        template = self.steps[index].template
        assert template is not None
        assert template.norm is not None
        return template.norm

    def _operator(self, index: int, given: Statistics) -> Operator:
        step = self.steps[index]
        assert step.template is not None
        if index in given:
            return per_channel(*coefficients(self._norm(index), *given[index]), len(step.shape))
        return step.template.make()


def _in_training(template: Template) -> bool:
    """Whether a node behaves otherwise in training than when evaluated, and is in training."""
    if template.norm is not None:
        return template.norm.training()
    return template.noise is not None and template.noise.training


def _normalise(x: Tensor, source: BatchNormSource) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise with this batch's statistics; return them with their gradients."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    count = x.numel() // x.shape[1]
    if count == 1:
        raise ValueError("batch normalisation in training mode needs more than one value a channel")
    var, mean = torch.var_mean(x, axes, correction=0)
    source.track(mean.detach(), var.detach(), count)
    scale, shift = coefficients(source, mean, var)
    return per_channel(scale, shift, x.dim() - 1).forward(x), mean, var
