"""From drawn nodes to steps: every call that depends on the image finds its builder."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from taut.errors import ModelError, UnsupportedOperator, first_line
from taut.graph.draw import Drawing
from taut.graph.folding import foldable, pixel_major
from taut.graph.graph import Graph, Step
from taut.graph.messages import alternatives, named, source_line
from taut.graph.probe import (
    BATCH,
    BatchSize,
    Probe,
    is_batch,
    is_size,
    needed_for,
    per_batch,
    same_for_every_image,
)
from taut.graph.reading import Expression, why_not_live
from taut.operators.base import Shape
from taut.operators.registry import BUILDERS, Inner, Live, Template, Value

_RESIZES = ("view", "reshape", "expand", "broadcast_to", "_unsafe_view")
_FIXED = (F.dropout, F.dropout2d, F.batch_norm)


def build(drawing: Drawing, shape: Shape) -> Graph:
    """Return the graph of a drawn module for images of one shape.

    Raises :class:`~taut.errors.UnsupportedOperator` for a call without a rule and
    :class:`~taut.errors.ModelError` where shapes do not fit.
    """
    return _Builder(drawing, shape).build()


class _Builder:
    """Turns the drawn nodes that depend on the input into steps."""

    def __init__(self, drawing: Drawing, shape: Shape) -> None:
        self.root = drawing.root
        self.drawn = drawing.graph
        self.exported = drawing.exported
        output = self.drawn.output_node().args[0]
        if not isinstance(output, fx.Node):
            raise _no_logits()
        self.output = output
        self.wanted = needed_for(output)
        self.place = {node: index for index, node in enumerate(self.drawn.nodes)}
        probe = Probe(self.root, self.drawn, self.wanted)
        self.probed = probe.probe(drawing.images(BATCH, shape))
        self.values = self.probed.values
        self.steps: list[Step] = [Step("x", None, (), shape)]
        self.dynamic: dict[fx.Node, Value] = {}
        self.parts: dict[fx.Node, tuple[Value, ...]] = {}
        self.sizes: set[fx.Node] = set()
        self.fixed: list[str] = []

    def build(self) -> Graph:
        for node in self.drawn.nodes:
            if node in self.wanted:
                self._visit(node)
        if self.output not in self.dynamic:
            raise _no_logits()
        self._refuse_stale(self.drawn.output_node())
        last = self.dynamic[self.output]
        if len(last.shape) != 1:
            raise ModelError(
                f"the model's output has shape (batch, {', '.join(map(str, last.shape))}); "
                "a classifier returns one vector of logits per image, (batch, classes)"
            )
        steps = tuple(self.steps[: last.index + 1])
        fixed = tuple(self.fixed)
        return Graph(self.root.model, steps, foldable(steps), pixel_major(steps), fixed)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.dynamic[node] = Value(0, self.steps[0].shape)
            return
        if not self._depends(node):
            return
        self._refuse_stale(node)
        if self._is_part(node):
            whole, place = node.args
            self.dynamic[node] = self.parts[cast(fx.Node, whole)][cast(int, place)]
        elif node in self.probed.same and node.args[0] in self.dynamic:
            self.dynamic[node] = self.dynamic[cast(fx.Node, node.args[0])]
        elif _is_tensor(self.values[node]):
            if any(p in self.dynamic or p in self.parts for p in node.all_input_nodes):
                self._add(node)
        elif is_size(self.values[node]):
            self.sizes.add(node)
        else:
            raise self._unsupported(node)

    def _depends(self, node: fx.Node) -> bool:
        """Whether a tensor that depends on the input, or its size, flows into the node."""
        return any(
            p in self.dynamic or p in self.parts or p in self.sizes for p in node.all_input_nodes
        )

    def _is_part(self, node: fx.Node) -> bool:
        """Whether a node takes one tensor of a call that returned several."""
        return (
            node.target is operator.getitem
            and node.args[0] in self.parts
            and isinstance(node.args[1], int)
        )

    def _refuse_stale(self, node: fx.Node) -> None:
        """Refuse to read memory that an operation in place has overwritten in between."""
        writer = self.probed.stale.get(node)
        if writer is not None:
            raise self._unsupported(writer, "in place on a tensor that is used again later")

    def _add(self, node: fx.Node) -> None:
        """Append the steps of a node."""
        several = not isinstance(self.values[node], Tensor)
        values: Sequence[Tensor] = self.values[node] if several else [self.values[node]]
        if any(value.dim() < 2 or value.shape[0] != BATCH for value in values):
            if node.target not in BUILDERS and node.op != "call_module":
                raise self._unsupported(node)
            raise UnsupportedOperator(
                f"node {node.name!r}{source_line(node)} does not keep the batch as its first "
                f"axis; use reshape or flatten from axis 1 on"
            )
        module = self._module(node)
        key = node.target if module is None else parametrize.type_before_parametrizations(module)
        builder = BUILDERS.get(key)
        if builder is None:
            raise self._unsupported(node)
        self._refuse_batch_sizes(node)
        shapes = tuple(tuple(value.shape[1:]) for value in values)
        args = [self._argument(node, a) for a in node.args]
        kwargs = {k: self._argument(node, a) for k, a in node.kwargs.items()}
        try:
            built = builder(shapes if several else shapes[0], module, *args, **kwargs)
        except UnsupportedOperator as error:
            raise self._unsupported(node, str(error)) from None
        except (TypeError, AttributeError) as error:
            raise self._unsupported(node, f"in this form: {first_line(error)}") from error
        name = self._name(node)
        if node.target in _FIXED and (self.exported or not self.root.was_training):
            self.fixed.append(name)
        if isinstance(built, tuple):
            pairs = zip(built, shapes, strict=True)
            self.parts[node] = tuple(self._step(name, each, shape) for each, shape in pairs)
        else:
            self.dynamic[node] = self._step(name, built, shapes[0])

    def _step(self, name: str, template: Template, shape: Shape) -> Value:
        """Append a template's step, after the steps of what stands in front of it."""
        inputs = tuple(
            self._step(f"{name}.{place}", found.template, found.shape)
            if isinstance(found, Inner)
            else found
            for place, found in enumerate(template.inputs)
        )
        self.steps.append(Step(name, template, tuple(x.index for x in inputs), shape))
        return Value(len(self.steps) - 1, shape)

    def _refuse_batch_sizes(self, node: fx.Node) -> None:
        """Refuse numbers that depend on the batch, but for the batch's own place in a size."""
        sizes = list(_numbers((node.args[1:], node.kwargs), self.values))
        if named(node.target).rpartition(".")[2] in _RESIZES and sizes and is_batch(sizes[0]):
            sizes = sizes[1:]
        if any(isinstance(size, BatchSize) for size in sizes):
            raise UnsupportedOperator(per_batch(node))

    def _argument(self, user: fx.Node, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value in self.dynamic:
                return self.dynamic[value]
            if value in self.parts:
                return self.parts[value]
            found = self.values.get(value)
            return self._reader(user, value) if isinstance(found, Tensor) else found
        if isinstance(value, slice):
            ends = (self._argument(user, v) for v in (value.start, value.stop, value.step))
            return slice(*ends)
        if isinstance(value, (list, tuple)):
            items = [self._argument(user, v) for v in value]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    def _reader(self, user: fx.Node, wanted: fx.Node) -> Live:
        """Return a reader of an expression over parameters and buffers, evaluated when called."""
        found, waiting = {wanted}, [wanted]
        sizes: dict[fx.Node, Any] = {}
        while waiting:
            node = waiting.pop()
            if node in self.dynamic or node in self.parts:
                raise self._unsupported(user, "with a size computed from values of the input")
            if node in self.sizes:
                sizes[node] = self.values[node]
                continue
            why = why_not_live(self.root, node)
            if why:
                raise self._unsupported(node, why)
            self._refuse_stale(node)
            for source in node.all_input_nodes:
                if source not in found:
                    found.add(source)
                    waiting.append(source)
        nodes = tuple(sorted(found - sizes.keys(), key=self.place.__getitem__))
        expression = Expression(self.root, nodes, sizes)
        if not sizes:
            return expression
        reader = same_for_every_image(expression)
        if reader is None:
            raise self._unsupported(user, "with a constant that differs from image to image")
        return reader

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        return self.root.get_submodule(str(node.target))

    def _name(self, node: fx.Node) -> str:
        """Return the path of a node's module in the user's model, or the node's own name."""
        path = str(node.target).removeprefix("model").removeprefix(".")
        return path if node.op == "call_module" and path else node.name

    def _unsupported(self, node: fx.Node, why: str = "") -> UnsupportedOperator:
        module = self._module(node)
        target: Any = node.target
        if module is not None:
            target = parametrize.type_before_parametrizations(module)
        place = f"at node {self._name(node)!r}{source_line(node)}"
        if why:
            return UnsupportedOperator(f"no rule for {named(target)} {why} {place}")
        return UnsupportedOperator(f"no rule for {named(target)} {place}; {alternatives(target)}")


def _no_logits() -> ModelError:
    return ModelError("the model's output must be one tensor of logits that uses the input")


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or several."""
    several = isinstance(value, (list, tuple)) and len(value) > 0
    return isinstance(value, Tensor) or (
        several and all(isinstance(part, Tensor) for part in value)
    )


def _numbers(value: Any, values: dict[fx.Node, Any]) -> Iterator[int]:
    """Return the numbers among a call's arguments, in order."""
    if isinstance(value, fx.Node):
        value = values.get(value)
        if _is_tensor(value):
            return
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _numbers(each, values)
    elif isinstance(value, int):
        yield value
