"""Tensors of the module under construction, and where their batch axis stands.

An ONNX file describes the network of one sample, most often with a batch axis of size 1. The
module keeps the batch as the first axis of every tensor and leaves its size free. A
:class:`Value` joins the two views: ``shape`` is the shape the file sees for one sample, and
``axis`` tells which of its axes, of size 1 there, is the batch. Moving the batch about, as files
with a trailing batch axis do, then costs no operation at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from taut.errors import UnsupportedOperator

Shape = tuple[int, ...]

_BATCH = 2  # samples that are sent along, so that a lost batch axis is noticed


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input.

    Attributes
    ----------
    node
        The tensor of the module, of shape ``(B, *rest)``.
    rest
        Its shape without the batch.
    axis
        Place of the batch among the file's axes; None where the file's tensor has no batch axis.

    """

    node: fx.Node
    rest: Shape
    axis: int | None

    @property
    def shape(self) -> Shape:
        """Shape of the file's tensor, for one sample."""
        if self.axis is None:
            return self.rest
        return (*self.rest[: self.axis], 1, *self.rest[self.axis :])

    def dim(self, axis: int) -> int:
        """Return the module's axis for one of the file's, which must not be the batch."""
        assert axis != self.axis
        return axis + 1 if self.axis is None or axis < self.axis else axis

    def axis_without(self, gone: Sequence[int]) -> int | None:
        """Return the place of the batch once other axes of the file's have gone."""
        return None if self.axis is None else self.axis - sum(axis < self.axis for axis in gone)


class Builder:
    """Writes a ``torch.fx`` graph, and runs every step of it on zeros to know the shapes."""

    def __init__(self, shape: Shape, axis: int | None, dtype: torch.dtype, free: bool) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.dtype = dtype
        self.free = free
        """Whether the file leaves the size of the batch open."""
        self._names: Counter[str] = Counter()
        self._samples: dict[fx.Node, Tensor | tuple[Tensor, ...]] = {}
        node = self.graph.placeholder("x")
        rest = without(shape, axis)
        self._samples[node] = torch.zeros(_BATCH, *rest, dtype=dtype)
        self.input = Value(node, rest, axis)

    def module(self, layer: nn.Module, x: Value, axis: int | None) -> Value:
        """Add a layer; ``axis`` is the place of the batch in the result."""
        name = self._name(type(layer).__name__.lower())
        self.root.add_module(name, layer)
        with torch.no_grad():
            sample = layer(self._samples[x.node])
        node = self.graph.call_module(name, (x.node,))
        self._samples[node] = sample
        return self._value(node, axis)

    def function(
        self, target: Callable[..., Any], *args: Any, axis: int | None, **kwargs: Any
    ) -> Value:
        """Add a call of a function; values among the arguments become its tensors."""
        return self._value(self._call(target, args, kwargs), axis)

    def functions(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call that returns several tensors, for other calls to choose from."""
        return self._call(target, args, kwargs)

    def method(self, name: str, x: Value, *args: Any, axis: int | None) -> Value:
        """Add a call of a tensor's method."""
        with torch.no_grad():
            sample = getattr(self._samples[x.node], name)(*args)
        node = self.graph.call_method(name, (x.node, *args))
        self._samples[node] = sample
        return self._value(node, axis)

    def constant(self, tensor: Tensor) -> fx.Node:
        """Register a constant as a buffer and return the node that reads it."""
        name = self._name("constant")
        self.root.register_buffer(name, tensor)
        node = self.graph.get_attr(name)
        self._samples[node] = tensor
        return node

    def _call(
        self, target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> fx.Node:
        nodes = fx.node.map_aggregate(tuple(args), lambda a: a.node if isinstance(a, Value) else a)
        samples = fx.node.map_arg(nodes, lambda n: self._samples[n])
        with torch.no_grad():
            sample = target(*samples, **kwargs)
        node = self.graph.call_function(target, nodes, kwargs)
        self._samples[node] = sample
        return node

    def _value(self, node: fx.Node, axis: int | None) -> Value:
        sample = self._samples[node]
        assert isinstance(sample, Tensor)
        if sample.dim() == 0 or sample.shape[0] != _BATCH:
            raise UnsupportedOperator("that mixes the samples of a batch")
        return Value(node, tuple(sample.shape[1:]), axis)

    def _name(self, kind: str) -> str:
        self._names[kind] += 1
        return f"{kind}{self._names[kind]}"

    # Changes of shape that the file does not ask for, or asks for in its own way.

    def reshape(self, x: Value, shape: Shape, axis: int | None) -> Value:
        """Give a tensor the file's ``shape``, with the batch at ``axis``, of size 1 there."""
        rest = without(shape, axis)
        if prod(rest) != prod(x.rest):
            raise UnsupportedOperator(f"from {x.shape} to {shape}, another number of elements,")
        if rest == x.rest:
            return Value(x.node, rest, axis)
        if len(rest) == 1:
            if not x.rest:
                return self.function(torch.unsqueeze, x, 1, axis=axis)
            return self.function(torch.flatten, x, 1, axis=axis)
        return self.method("reshape", x, -1, *rest, axis=axis)

    def batch_at(self, x: Value, axis: int) -> Value:
        """Let another axis of size 1 be the batch."""
        if x.axis == axis:
            return x
        if axis >= len(x.shape) or x.shape[axis] != 1:
            raise UnsupportedOperator(
                f"on a tensor of shape {x.shape}, whose axis {axis} should be a batch of one,"
            )
        return self.reshape(x, x.shape, axis)

    def without_batch(self, x: Value) -> Value:
        """Let the batch axis be one of the sample's own, of size 1.

        An operation over that axis would join the samples of a batch. That is no
        matter in a file for one sample, and refused in a file for several.
        """
        if x.axis is None:
            return x
        self.refuse_if_free()
        return self.reshape(x, x.shape, None)

    def refuse_if_free(self) -> None:
        """Refuse an operation over the batch axis in a file for batches of any size."""
        if self.free:
            raise UnsupportedOperator("over the batch axis, which mixes the samples of a batch,")

    def padded(self, x: Value, rank: int) -> Value:
        """Put axes of size 1 in front, as broadcasting does."""
        more = rank - len(x.shape)
        if more <= 0:
            return x
        shape = (1,) * more + x.shape
        return self.reshape(x, shape, None if x.axis is None else x.axis + more)


def without(shape: Shape, axis: int | None) -> Shape:
    """Return a shape without one of its axes."""
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]


def first_of_one(shape: Shape) -> int | None:
    """Return the first axis of size 1, where a batch can stand."""
    return shape.index(1) if 1 in shape else None
