"""Statistics of batch normalisation over a whole set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from taut.data import ImageSet
from taut.data.images import as_pixels
from taut.graph import Graph

CHUNK = 512
"""Images passed at a time."""


class _Norm(NamedTuple):
    """A batch normalisation, the node whose values it normalises, and what that node needs."""

    module: _BatchNorm
    source: int
    needed: frozenset[int]


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalisations that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def population_statistics(
    graph: Graph,
    images: ImageSet,
    *,
    part: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> None:
    r"""Set running statistics to mean and variance over ``images``, in evaluation mode.

    .. math:: \mu = \frac1N \sum_i z_i, \qquad v = \frac1N \sum_i (z_i - \mu)^2

    z are the values a normalisation reads, one for each image and pixel, while those before it
    already normalise by their own population: afterwards the inputs of every normalisation have
    exactly the statistics it holds. One normalisation after another is set, in the order of
    the network, each by a pass that ends at it. Nothing is random, and nothing depends on the
    statistics there were. The model is put into evaluation mode and left there.

    Parameters
    ----------
    graph
        The traced model.
    images
        Un-augmented images on the model's device.
    part
        ``(rank, world)``: this process takes every world-th image of a chunk.
    reduce
        Sums a tensor over all processes.

    References
    ----------
    Mao et al., *CTBench: a library and benchmark for certified training* (2024), re-estimate
    the statistics of the training set after each epoch.

    """
    graph.module.eval()
    rank, world = part
    for norm in _in_order(graph):
        mean, var = norm.module.running_mean, norm.module.running_var
        assert mean is not None
        assert var is not None
        sums = torch.zeros(3, len(mean), dtype=torch.float64, device=mean.device)
        for start in range(0, len(images), CHUNK):
            chunk = images.images[start : start + CHUNK][rank::world]
            if len(chunk) == 0:
                continue
            z = _value(graph, norm, as_pixels(chunk).to(mean.dtype))
            axes = [axis for axis in range(z.dim()) if axis != 1]
            found = [t.double() for t in torch.var_mean(z, axes, correction=0)]
            count = z.numel() // z.shape[1]
            sums[0] += count
            sums[1] += count * found[1]
            sums[2] += count * (found[0] + found[1].square())
        count_all, total, squares = reduce(sums).unbind()
        centre = total / count_all
        mean.copy_(centre)
        var.copy_((squares / count_all - centre.square()).clamp(min=0.0))


def _in_order(graph: Graph) -> list[_Norm]:
    """Return the model's batch normalisations in the order of the graph."""
    by_statistics = {id(module.running_mean): module for module in norms(graph.module)}
    found = []
    for step in graph.steps:
        source = None if step.template is None else step.template.norm
        module = None
        if source is not None and source.mean is not None:
            module = by_statistics.get(id(source.mean()))
        if module is not None:
            at = step.inputs[0]
            found.append(_Norm(module, at, _ancestors(graph, at)))
    return found


def _ancestors(graph: Graph, index: int) -> frozenset[int]:
    """Return a node and all it depends on."""
    found, pending = set(), [index]
    while pending:
        at = pending.pop()
        if at not in found:
            found.add(at)
            pending += graph.steps[at].inputs
    return frozenset(found)


def _value(graph: Graph, norm: _Norm, x: Tensor) -> Tensor:
    """Return the values ``(B, C, ...)`` that a normalisation reads."""
    values: dict[int, Tensor] = {0: x}
    for index in sorted(norm.needed - {0}):
        step = graph.steps[index]
        assert step.template is not None
        values[index] = step.template.make().forward(*(values[i] for i in step.inputs))
    return values[norm.source]


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics afterwards, in place."""
    buffers = [b for module in norms(model) for b in module.buffers(recurse=False)]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)


@contextmanager
def untouched_statistics(model: nn.Module) -> Iterator[None]:
    """Let a clean pass within track copies of the running statistics.

    The tensors themselves are put aside and not written to: a forward pass before this one may
    still need them for its gradient.
    """
    aside = [(module, dict(module._buffers)) for module in norms(model)]
    try:
        for module, buffers in aside:
            for name, value in buffers.items():
                module._buffers[name] = None if value is None else value.clone()
        yield
    finally:
        for module, buffers in aside:
            module._buffers.update(buffers)
