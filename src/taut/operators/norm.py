"""Batch normalisation, an affine map once its statistics are known."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.affine import Scale
from taut.operators.base import Operator, Shape
from taut.operators.registry import (
    BatchNormSource,
    Case,
    Entry,
    Live,
    Template,
    Value,
    attribute,
    builds,
    register,
)


def coefficients(
    source: BatchNormSource, mean: Tensor | None = None, var: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return ``(scale, shift)`` per channel, each ``(C,)``.

    .. math:: g = \gamma / \sqrt{v + \delta}, \qquad h = \beta - g \mu

    with the statistics given, or else the running ones.
    """
    mean = mean if mean is not None else cast(Live, source.mean)()
    var = var if var is not None else cast(Live, source.var)()
    scale = torch.rsqrt(var + source.eps)
    if source.weight is not None:
        scale = scale * source.weight()
    shift = -mean * scale
    return scale, shift if source.bias is None else shift + source.bias()


def per_channel(scale: Tensor, shift: Tensor, dims: int) -> Scale:
    """Return the normalisation as an operator on nodes with ``dims`` axes (batch not counted)."""
    view = (-1, *[1] * (dims - 1))
    return Scale(scale.view(view), shift.view(view))


def _template(x: Value, source: BatchNormSource) -> Template:
    def make() -> Operator:
        return per_channel(*coefficients(source), len(x.shape))

    return Template((x,), make, source)


@builds(nn.BatchNorm1d, nn.BatchNorm2d)
def _batch_norm_module(shape: Shape, module: nn.BatchNorm1d | nn.BatchNorm2d, x: Value) -> Template:
    if module.running_mean is None:
        raise UnsupportedOperator(
            "batch normalisation without running statistics depends on the rest of the batch; "
            "build it with track_running_stats=True"
        )
    if len(x.shape) not in (1, 2, 3):
        raise UnsupportedOperator(f"batch normalisation of a node of shape {x.shape}")

    def track(mean: Tensor, var: Tensor, count: int) -> None:
        with torch.no_grad():
            batches = module.num_batches_tracked
            assert batches is not None
            assert module.running_mean is not None
            assert module.running_var is not None
            batches.add_(1)
            rate = 1.0 / float(batches) if module.momentum is None else module.momentum
            unbiased = var * (count / max(count - 1, 1))
            module.running_mean.lerp_(mean.to(module.running_mean.dtype), rate)
            module.running_var.lerp_(unbiased.to(module.running_var.dtype), rate)

    source = BatchNormSource(
        attribute(module, "running_mean"),
        attribute(module, "running_var"),
        attribute(module, "weight"),
        attribute(module, "bias"),
        module.eps,
        lambda: module.training,
        track,
    )
    return _template(x, source)


@builds(F.batch_norm)
def _batch_norm(
    shape: Shape,
    module: None,
    input: Value,
    running_mean: Live | None = None,
    running_var: Live | None = None,
    weight: Live | None = None,
    bias: Live | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Template:
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperator(
            "F.batch_norm traced with training=True; put the model in eval mode, or use "
            "nn.BatchNorm2d, whose mode is read at every call"
        )

    def never(mean: Tensor, var: Tensor, count: int) -> None:
        raise AssertionError("a functional batch norm is never in training mode")

    return _template(
        input,
        BatchNormSource(running_mean, running_var, weight, bias, eps, lambda: False, never),
    )


def _cases(generator: torch.Generator) -> list[Case]:
    cases = []
    for shape in ((4,), (3, 4, 5)):
        module = nn.BatchNorm1d(shape[0], dtype=torch.float64)
        assert module.running_mean is not None
        assert module.running_var is not None
        for tensor in (module.weight.data, module.bias.data, module.running_mean):
            tensor.normal_(generator=generator)
        module.running_var.uniform_(0.1, 2.0, generator=generator)
        with torch.no_grad():
            template = _batch_norm_module(shape, module, Value(0, shape))
            cases.append(Case(template.make(), (shape,)))
    return cases


register(Entry("batch-norm", "running statistics, or those of the clean batch", _cases))
