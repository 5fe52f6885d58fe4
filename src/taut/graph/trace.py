"""From an ``nn.Module`` to a :class:`~taut.graph.graph.Graph`, by ``torch.fx``."""

from __future__ import annotations

import linecache
import operator
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from taut.errors import ModelError, TautError, UnsupportedOperator
from taut.graph.graph import Graph, Step
from taut.operators.affine import Linear
from taut.operators.registry import (
    BUILDERS,
    Inner,
    Live,
    Template,
    Value,
    describe,
    supported,
)
from taut.operators.shape import Reshape

_BATCH = 3  # an unusual number, so that a node that loses the batch axis is noticed
_SMALL = 2**20  # elements of a weight that are cheaper to reorder than the images
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_PASSES_SHAPE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d)


def trace(module: nn.Module, input_shape: Sequence[int]) -> Graph:
    """Trace a classifier into a graph whose parameters are the module's own.

    Parameters
    ----------
    module
        Any module ``(B, *input_shape) -> (B, K)`` of supported operators, in module
        or functional form, sequential or branching. It is neither wrapped nor changed.
    input_shape
        Shape of one image, without the batch axis.

    Raises
    ------
    UnsupportedOperator
        For an operation without a rule: names node, operation, source line and the
        supported list.
    ModelError
        When Python control flow depends on the data, the shapes do not fit, or the
        output is not one vector of logits per image.

    """
    tracer = fx.Tracer()
    tracer.record_stack_traces = True
    try:
        drawn = tracer.trace(module)
    except (TautError, MemoryError):
        raise
    except Exception as error:  # fx raises a zoo of types; all mean the model cannot be traced
        raise ModelError(
            f"{type(module).__name__} cannot be traced: {_first_line(error)}; "
            "avoid Python branches and loops over tensor values in forward()"
        ) from error
    values = _propagate(module, drawn, tuple(input_shape))
    return _Builder(module, drawn, values).build()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Shapes(fx.Interpreter):
    """Runs the graph once on zeros to learn every node's shape.

    Batch norm and dropout pass their input on, so that running statistics and the
    generator are left alone whatever mode the model is in.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.at: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.fetch_attr(target), _PASSES_SHAPE):
            return args[0]
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in (nn.functional.batch_norm, nn.functional.dropout, nn.functional.dropout2d):
            return args[0] if args else kwargs["input"]
        return super().call_function(target, args, kwargs)


def _propagate(module: nn.Module, drawn: fx.Graph, shape: tuple[int, ...]) -> dict[fx.Node, Any]:
    first = next(module.parameters(), None)
    like = first if first is not None else torch.zeros(())
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    zeros = torch.zeros(_BATCH, *shape, dtype=dtype, device=like.device)
    interpreter = _Shapes(fx.GraphModule(module, drawn))
    try:
        with torch.no_grad():
            interpreter.run(zeros)
    except MemoryError:
        raise
    except Exception as error:  # shapes that do not fit surface as whatever torch raises
        at = interpreter.at
        place = f" at node {at.name!r}{_line(at)}" if at is not None else ""
        raise ModelError(
            f"the model does not accept images of shape {shape}{place}: {_first_line(error)}"
        ) from error
    return dict(interpreter.env)


def _line(node: fx.Node) -> str:
    """Return `` (file:line: source)`` of the user's own line, where fx recorded one."""
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    for path, number in reversed(places):
        if "/torch/" in path or "/taut/graph/" in path:
            continue
        source = linecache.getline(path, int(number)).strip()
        return f" ({path}:{number}: {source})" if source else f" ({path}:{number})"
    return ""


class _Builder:
    """Turns the drawn nodes that depend on the input into steps."""

    def __init__(self, module: nn.Module, drawn: fx.Graph, values: dict[fx.Node, Any]) -> None:
        self.module = module
        self.drawn = drawn
        self.values = values
        self.steps: list[Step] = []
        self.dynamic: dict[fx.Node, Value] = {}
        self.parts: dict[fx.Node, tuple[Value, ...]] = {}

    def build(self) -> Graph:
        output: Any = None
        for node in self.drawn.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                output = node.args[0]
            elif self._is_part(node):
                self.dynamic[node] = self.parts[node.args[0]][node.args[1]]
            elif self._is_tensor(self.values.get(node)) and self._depends(node):
                self._add(node)
            elif self._depends(node) and not _is_size(self.values.get(node)):
                raise self._unsupported(node)
        if not isinstance(output, fx.Node) or output not in self.dynamic:
            raise ModelError("the model's output must be one tensor of logits that uses the input")
        last = self.dynamic[output]
        if len(last.shape) != 1:
            raise ModelError(
                f"the model's output has shape (batch, {', '.join(map(str, last.shape))}); "
                "a classifier returns one vector of logits per image, (batch, classes)"
            )
        steps = tuple(self.steps[: last.index + 1])
        return Graph(self.module, steps, _foldable(steps), _pixel_major(steps))

    def _placeholder(self, node: fx.Node) -> None:
        if self.steps:
            if node.args:  # a further argument of forward() with a default
                return
            raise ModelError(
                f"forward() needs more than one input ({node.name!r}); taut bounds one image tensor"
            )
        shape = tuple(self.values[node].shape[1:])
        self.steps.append(Step(str(node.target), None, (), shape))
        self.dynamic[node] = Value(0, shape)

    def _depends(self, node: fx.Node) -> bool:
        """Whether a tensor that depends on the input flows into the node."""
        return any(p in self.dynamic or p in self.parts for p in node.all_input_nodes)

    def _is_part(self, node: fx.Node) -> bool:
        """Whether a node takes one tensor of a call that returned several."""
        return (
            node.target is operator.getitem
            and node.args[0] in self.parts
            and isinstance(node.args[1], int)
        )

    @staticmethod
    def _is_tensor(value: Any) -> bool:
        """Whether a value is a tensor, or several."""
        several = isinstance(value, (list, tuple)) and len(value) > 0
        return isinstance(value, Tensor) or (
            several and all(isinstance(part, Tensor) for part in value)
        )

    def _add(self, node: fx.Node) -> None:
        """Append the steps of a node."""
        several = not isinstance(self.values[node], Tensor)
        values: Sequence[Tensor] = self.values[node] if several else [self.values[node]]
        if any(value.dim() < 2 or value.shape[0] != _BATCH for value in values):
            raise UnsupportedOperator(
                f"node {node.name!r}{_line(node)} does not keep the batch as its first axis; "
                f"use reshape or flatten from axis 1 on"
            )
        module, key = None, node.target
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            key = type(module)
        build = BUILDERS.get(key)
        if build is None:
            raise self._unsupported(node)
        self._refuse_aliasing(node, module)
        shapes = tuple(tuple(value.shape[1:]) for value in values)
        args = [self._argument(node, a) for a in node.args]
        kwargs = {k: self._argument(node, a) for k, a in node.kwargs.items()}
        try:
            built = build(shapes if several else shapes[0], module, *args, **kwargs)
        except UnsupportedOperator as error:
            raise self._unsupported(node, str(error)) from None
        except (TypeError, AttributeError) as error:
            raise self._unsupported(node, f"in this form: {_first_line(error)}") from error
        name = str(node.target) if node.op == "call_module" else node.name
        if isinstance(built, tuple):
            pairs = zip(built, shapes, strict=True)
            self.parts[node] = tuple(self._step(name, each, shape) for each, shape in pairs)
        else:
            self.dynamic[node] = self._step(name, built, shapes[0])

    def _step(self, name: str, template: Template, shape: tuple[int, ...]) -> Value:
        """Append a template's step, after the steps of what stands in front of it."""
        inputs = tuple(
            self._step(f"{name}.{place}", found.template, found.shape)
            if isinstance(found, Inner)
            else found
            for place, found in enumerate(template.inputs)
        )
        self.steps.append(Step(name, template, tuple(x.index for x in inputs), shape))
        return Value(len(self.steps) - 1, shape)

    def _refuse_aliasing(self, node: fx.Node, module: nn.Module | None) -> None:
        """Refuse an in-place operation on memory that a later node reads under its old name."""
        named = describe(node.target)
        in_place = getattr(module, "inplace", False) or node.kwargs.get("inplace", False)
        if not (in_place or node.target in _IN_PLACE or named.endswith("_")):
            return
        order = {n: i for i, n in enumerate(self.drawn.nodes)}
        source = node.all_input_nodes[0]
        while True:
            if any(order[user] > order[node] for user in source.users):
                raise self._unsupported(node, "in place on a tensor that is used again later")
            if not source.all_input_nodes or not _is_view(source, self.values):
                return
            source = source.all_input_nodes[0]

    def _argument(self, user: fx.Node, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value in self.dynamic:
                return self.dynamic[value]
            found = self.values.get(value)
            return self._reader(user, value) if isinstance(found, Tensor) else found
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(user, v) for v in value)
        return value

    def _reader(self, user: fx.Node, node: fx.Node) -> Live:
        """Return a reader of an expression over parameters and buffers, evaluated when called."""
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = self.module.get_submodule(path)
            return lambda: getattr(owner, name)
        if node.op == "call_module":
            raise self._unsupported(node)
        args, kwargs = self._readers(user, node.args), self._readers(user, dict(node.kwargs))

        def read() -> Tensor:
            a, k = _resolve(args), _resolve(kwargs)
            if node.op == "call_method":
                result: Tensor = getattr(a[0], str(node.target))(*a[1:], **k)
            else:
                assert callable(node.target)
                result = node.target(*a, **k)
            return result

        return read

    def _readers(self, user: fx.Node, value: Any) -> Any:
        """Replace the nodes among an expression's arguments by readers."""
        if isinstance(value, fx.Node):
            return _Read(self._static(user, value))
        if isinstance(value, (list, tuple)):
            return type(value)(self._readers(user, v) for v in value)
        if isinstance(value, dict):
            return {key: self._readers(user, v) for key, v in value.items()}
        return value

    def _static(self, user: fx.Node, node: fx.Node) -> Any:
        if self._depends(node):  # a size of the input inside an expression of parameters
            raise self._unsupported(user, "with a constant that depends on the input's size")
        found = self.values.get(node)
        return self._reader(user, node) if isinstance(found, Tensor) else lambda: found

    def _unsupported(self, node: fx.Node, why: str = "") -> UnsupportedOperator:
        target: Any = node.target
        if node.op == "call_module":
            target = type(self.module.get_submodule(str(node.target)))
        return UnsupportedOperator(
            f"no rule for {describe(target)} {why + ' ' if why else ''}at node "
            f"{str(node.target) if node.op == 'call_module' else node.name!r}{_line(node)}; "
            f"supported: {supported()}"
        )


def _is_view(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether a node may share memory with its first input: same element count suffices."""
    own, source = values.get(node), values.get(node.all_input_nodes[0])
    if not isinstance(own, Tensor) or not isinstance(source, Tensor):
        return False
    return own.numel() == source.numel()


class _Read:
    """Marks a reader among the arguments of an expression."""

    def __init__(self, read: Any) -> None:
        self.read = read


def _resolve(value: Any) -> Any:
    if isinstance(value, _Read):
        return value.read()
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(v) for v in value)
    if isinstance(value, dict):
        return {k: _resolve(v) for k, v in value.items()}
    return value


def _is_size(value: Any) -> bool:
    """Whether a value is made of sizes only (an int, a torch.Size, a tuple of ints)."""
    if isinstance(value, (int, torch.dtype, torch.device)):
        return True
    return isinstance(value, tuple) and all(isinstance(v, int) for v in value)


def _readers(steps: tuple[Step, ...]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {index: [] for index in range(len(steps))}
    for index, step in enumerate(steps):
        for source in step.inputs:
            found[source].append(index)
    return found


def _foldable(steps: tuple[Step, ...]) -> dict[int, int]:
    """Find linear and convolution nodes read by one batch norm and by nothing else."""
    readers = _readers(steps)
    folded = {}
    for index, step in enumerate(steps):
        if step.template is None or step.template.norm is None:
            continue
        before = step.inputs[0]
        template = steps[before].template
        if template is not None and template.folds and readers[before] == [index]:
            folded[before] = index
    return folded


def _pixel_major(steps: tuple[Step, ...]) -> frozenset[int]:
    """Find flattened images that only small linear layers read.

    Reordering the columns of a small weight once a call is cheaper than reordering
    every image; for a large weight it is not.
    """
    readers = _readers(steps)
    found = set()
    for index, step in enumerate(steps[:-1]):
        template = step.template
        if template is None or len(step.shape) != 1:
            continue
        if not isinstance(template.make(), Reshape) or len(steps[step.inputs[0]].shape) != 3:
            continue
        makers = [steps[reader].template for reader in readers[index]]
        layers = [maker.make() for maker in makers if maker is not None]
        if layers and all(
            isinstance(layer, Linear) and layer.weight.numel() <= _SMALL for layer in layers
        ):
            found.add(index)
    return frozenset(found)
