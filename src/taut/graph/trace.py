"""From an ``nn.Module`` to a :class:`~taut.graph.graph.Graph`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from taut.errors import ModelError, out_of_memory
from taut.graph.build import build
from taut.graph.draw import (
    Drawing,
    Root,
    as_it_was,
    example,
    exported,
    refuse_opaque,
    run,
    symbolic,
    unwrapped,
)
from taut.graph.graph import Graph
from taut.graph.probe import BATCH
from taut.operators.base import Shape

_BATCHES = (1, 2, 7)  # sizes of batches on which an exported graph and its module are compared


def trace(module: nn.Module, input_shape: Sequence[int]) -> Graph:
    """Trace a classifier into a graph whose parameters are the module's own.

    The module is drawn by ``torch.fx``. Where its ``forward()`` asks questions fx cannot answer
    (a branch on a shape, ``len(x)``, a loop over a size, a type or device), it is drawn by
    ``torch.export`` in evaluation mode. Either way the graph is compared with the module, as it is
    evaluated, on random images; after export in batches of several sizes. Batch normalisation and
    dropout modules keep their own mode.

    Parameters
    ----------
    module
        Any module ``(B, *input_shape) -> (B, K)`` of supported operators, in module
        or functional form, sequential or branching. It is neither wrapped nor changed. What
        ``torch.compile`` and data-parallel wrappers hold is traced in their place.
    input_shape
        Shape of one image, without the batch axis.

    Raises
    ------
    UnsupportedOperator
        For an operation without a rule: names node, operation, source line and what comes near it.
    ModelError
        When what ``forward()`` computes depends on values of tensors or on how many images there
        are, the shapes do not fit, or the output is not one vector of logits per image. It names
        the line at fault.

    """
    model = unwrapped(module)
    shape = tuple(input_shape)
    refuse_opaque(model)
    root = Root(model)
    with torch.inference_mode(False), as_it_was(root):  # which would hide writes in place
        drawing = symbolic(root)
        root.eval()
        if isinstance(drawing, Drawing):
            graph = build(drawing, shape)
            if _agrees(root, graph, shape):
                return graph
            # Python looked at a placeholder (isinstance, an f-string) and went another way.
            why: Exception = ModelError("forward() does not treat placeholders as tensors")
        else:
            why = drawing
        return _by_export(root, shape, why)


def _by_export(root: Root, shape: Shape, why: Exception) -> Graph:
    """Return the graph of a module that fx cannot trace, and why not."""
    graph = build(exported(root, shape, why), shape)
    batch = _differs(root, graph, shape, _BATCHES)
    if batch is not None:
        raise ModelError(
            f"{type(root.model).__name__} computes something else than its graph on a batch of "
            f"{batch} images; forward() must treat every image alike, whatever the number of "
            "images, and keep nothing from call to call"
        )
    if isinstance(why, ModelError) and root.was_training:
        return replace(graph, fixed=(*graph.fixed, "forward()"))
    return graph


def _agrees(root: Root, graph: Graph, shape: Shape) -> bool:
    """Whether a graph agrees with its module on a few images, or on one where memory is short."""
    for batch in (BATCH, 1):
        try:
            return _differs(root, graph, shape, (batch,)) is None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
    return True  # the module computes nothing here that could disagree


def _differs(root: Root, graph: Graph, shape: Shape, batches: Sequence[int]) -> int | None:
    """Return the size of a batch on which a graph disagrees with its module, if there is one.

    Neither way of drawing sees everything that Python code asks; ``len(x)`` and
    ``isinstance(x, Tensor)`` leave no trace. Rounding may differ, in proportion to the largest
    number on the way.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network = graph.instance()
        for batch in batches:
            images = example(root, batch, shape)
            images = torch.rand(images.shape, generator=generator, dtype=torch.float64).to(images)
            own = run(root, images)
            values = [images]
            for node in network.nodes[1:]:
                assert node.operator is not None
                values.append(node.operator.forward(*(values[i] for i in node.inputs)))
            largest = max(float(v.nan_to_num(0, 0, 0).abs().max()) for v in values)
            near = torch.finfo(images.dtype).eps ** 0.5 * largest
            traced = values[-1]
            if own.shape != traced.shape or not torch.allclose(
                own, traced, rtol=0, atol=near, equal_nan=True
            ):
                return batch
    return None
