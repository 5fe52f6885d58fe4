"""An exported program in the words of PyTorch's own functions, which builders know.

``torch.export`` speaks ATen and turns parameters into arguments. Here every ATen call that depends
on the image becomes a call of the function or method a builder is registered under, with the
arguments in that function's order; parameters, buffers and constants become attributes of the
module again. One set of builders thus serves both ways of drawing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from taut.errors import ModelError, UnsupportedOperator
from taut.graph.messages import source_line
from taut.graph.reading import attribute_at
from taut.operators.registry import BUILDERS

_END = 2**62  # an end of a slice beyond this is no end

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""A function, or the name of a method, with its arguments."""


def lowered(program: torch.export.ExportedProgram, root: nn.Module) -> fx.Graph:
    """Return a graph over ``root`` that computes what an exported program computes.

    Raises :class:`~taut.errors.ModelError` when the program holds for some sizes of a batch only.
    """
    return _Lowering(program, root).run()


class _Lowering:
    def __init__(self, program: torch.export.ExportedProgram, root: nn.Module) -> None:
        self.program = program
        self.root = root
        self.graph = fx.Graph()
        self.at: dict[fx.Node, fx.Node] = {}
        self.dynamic: set[fx.Node] = set()
        signature = program.graph_signature
        self.paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.constants = signature.inputs_to_lifted_tensor_constants
        (self.image,) = signature.user_inputs
        (self.logits,) = signature.user_outputs
        self.wholes, self.inside = _wholes(program.graph, root, self.image)

    def run(self) -> fx.Graph:
        for node in self.program.graph.nodes:
            if node in self.wholes:
                path, x = self.wholes[node]
                self.at[node] = self._made(node, "call_module", path, (self.at[x],), {})
            elif node in self.inside:
                pass
            elif node.op == "placeholder":
                self.at[node] = self._placeholder(node)
            elif node.op == "output":
                found = next(n for n in node.all_input_nodes if n.name == self.logits)
                self.graph.output(self.at[found])
            elif node.op == "call_function":
                self.at[node] = self._call(node)
            else:  # sub-graphs of control flow
                self.at[node] = self._made(node, node.op, node.target, (), {})
            if any(n in self.dynamic for n in node.all_input_nodes):
                self.dynamic.add(node)
        return self.graph

    def _placeholder(self, node: fx.Node) -> fx.Node:
        if node.name == self.image:
            self._refuse_sizes(node)
            self.dynamic.add(node)
            return self._made(node, "placeholder", "x", (), {})
        path = self.paths.get(node.name)
        if path is None:
            path = self._constant(self.constants[node.name])
        return self._made(node, "get_attr", path, (), {})

    def _constant(self, name: str) -> str:
        """Return the path of a constant: the module's own where it is an attribute of it."""
        with suppress(AttributeError):
            if isinstance(attribute_at(self.root, name), Tensor):
                return name
        place, value = name.replace(".", "_"), self.program.constants[name]
        if not isinstance(value, Tensor):
            raise ModelError(f"the model holds {name!r}, a {type(value).__name__} and no tensor")
        hidden = _unregistered(self.root).get(value.data_ptr())
        if hidden is not None:
            raise ModelError(
                f"the model keeps parameters in the plain container {hidden!r}, where neither "
                "optimisers nor taut find them; use nn.ParameterList or nn.ModuleList"
            )
        setattr(self.root.constants, place, value)
        return f"constants.{place}"

    def _refuse_sizes(self, node: fx.Node) -> None:
        size = node.meta["val"].shape[0]
        if isinstance(size, int):  # one size only; trace() compares others
            return
        allowed = self.program.range_constraints.get(size.node.expr)
        if allowed is not None and (allowed.lower > 2 or allowed.upper < _END):
            raise ModelError(
                f"forward() does something else for batches of some sizes (traced for "
                f"{allowed.lower} to {allowed.upper} images); treat every image alike"
            )

    def _made(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        found = self.graph.create_node(op, target, args, kwargs, name=node.name)
        found.stack_trace = node.stack_trace
        return found

    def _call(self, node: fx.Node) -> fx.Node:
        args: Any = fx.node.map_arg(node.args, self.at.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.at.__getitem__)
        target: Any = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise UnsupportedOperator(
                f"no rule for torch.{target.name()} at node {node.name!r}{source_line(node)}; "
                "leave control flow and gradient modes out of forward()"
            )
        depends = any(n in self.dynamic for n in node.all_input_nodes)
        if target is operator.getitem and args[1] == 0 and args[0].target in _FIRST_OF_TWO:
            first: fx.Node = args[0]
            return first
        if not depends or not isinstance(target, torch._ops.OpOverload):
            return self._made(node, "call_function", target, args, kwargs)
        name = target._schema.name.removeprefix("aten::")
        owner = self._owner(node, name)
        if owner is not None:
            return self._made(node, "call_module", owner, (args[0],), {})
        if name == "slice":
            return self._slice(node, *args)
        found, args, kwargs = _public(name, target, args, kwargs)
        op = "call_method" if isinstance(found, str) else "call_function"
        return self._made(node, op, found, args, kwargs)

    def _slice(
        self,
        node: fx.Node,
        x: fx.Node,
        dim: int = 0,
        start: Any = None,
        end: Any = None,
        step: int = 1,
    ) -> fx.Node:
        """Return ``x[:, start:end:step]``, or the tensor itself where that leaves nothing out."""
        end = None if isinstance(end, int) and end >= _END else end
        start = None if isinstance(start, int) and start == 0 else start
        if start is None and end is None and step == 1:
            return x
        before = (slice(None),) * (dim % node.meta["val"].dim())
        index = (*before, slice(start, end, step))
        return self._made(node, "call_function", operator.getitem, (x, index), {})

    def _owner(self, node: fx.Node, name: str) -> str | None:
        """Return the path of the batch norm or dropout module a call was made by.

        Its mode and statistics are then read at every call, as they are where fx draws it.
        """
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if not stack:
            return None
        path = stack[-1][0].partition("@")[0]
        try:
            module = self.root.get_submodule(path)
        except AttributeError:
            return None
        if name in ("dropout", "feature_dropout", "dropout_", "feature_dropout_"):
            return path if type(module) in (nn.Dropout, nn.Dropout2d) else None
        if name != "batch_norm" or type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            return None
        given = [self._tensor(each) for each in node.args[1:5]]
        own = [module.weight, module.bias, module.running_mean, module.running_var]
        return path if all(a is b for a, b in zip(given, own, strict=True)) else None

    def _tensor(self, value: Any) -> Tensor | None:
        path = self.paths.get(value.name) if isinstance(value, fx.Node) else None
        return None if path is None else attribute_at(self.root, path)


def _wholes(
    graph: fx.Graph, root: nn.Module, image: str
) -> tuple[dict[fx.Node, tuple[str, fx.Node]], set[fx.Node]]:
    """Find the calls of modules that have a builder of their own, as ``torch.fx`` draws them.

    Return the last node of each call with the module's path and the tensor it was called with,
    and all nodes that nothing but such calls needs. PyTorch's own modules are left to their
    functions, and modules with hooks, whose calls may do more.
    """
    dynamic: set[fx.Node] = set()
    calls: dict[tuple[str, str], set[fx.Node]] = {}
    for node in graph.nodes:
        if node.name == image or any(n in dynamic for n in node.all_input_nodes):
            dynamic.add(node)
            stack = list((node.meta.get("nn_module_stack") or {}).items())
            if stack and node.name != image:
                key, (path, _) = stack[-1]
                calls.setdefault((key, path.partition("@")[0]), set()).add(node)
    wholes: dict[fx.Node, tuple[str, fx.Node]] = {}
    inside: set[fx.Node] = set()
    for (_, path), nodes in calls.items():
        if not _is_whole(root, path):
            continue
        given = {n for node in nodes for n in node.all_input_nodes if n in dynamic - nodes}
        given = {n for n in given if isinstance(n.meta["val"], Tensor)}
        ends = [node for node in nodes if any(user not in nodes for user in node.users)]
        if len(given) == len(ends) == 1:
            wholes[ends[0]] = (path, given.pop())
            inside |= nodes
    sizes = [n for n in dynamic - inside if not isinstance(n.meta.get("val"), Tensor)]
    inside.update(n for n in sizes if n.users and all(user in inside for user in n.users))
    return wholes, inside


def _is_whole(root: nn.Module, path: str) -> bool:
    with suppress(AttributeError):
        module = root.get_submodule(path)
        kind = type(module)
        hooked = module._forward_hooks or module._forward_pre_hooks
        return kind in BUILDERS and not kind.__module__.startswith("torch.") and not hooked
    return False


def _unregistered(root: nn.Module) -> dict[int, str]:
    """Return addresses of parameters that modules keep in lists or dicts, with the names."""
    known = {id(parameter) for parameter in root.parameters()}
    found: dict[int, str] = {}
    for module in root.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            items = value.values() if isinstance(value, dict) else value
            for item in items if isinstance(value, (list, tuple, dict)) else ():
                held = item.parameters() if isinstance(item, nn.Module) else [item]
                found.update(
                    {p.data_ptr(): name for p in held if _is_parameter(p) and id(p) not in known}
                )
    return found


def _is_parameter(value: Any) -> bool:
    return isinstance(value, nn.Parameter)


def _public(name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Return an ATen call as one of the function or method with a builder.

    Most ATen operations have their function's name and order of arguments.
    """
    if name in _FORMS:
        return _FORMS[name](*args, **kwargs)
    for found in (getattr(torch, name, None), getattr(F, name, None), name):
        if found is not None and found in BUILDERS:
            return found, args, kwargs
    plain = getattr(F, name.removesuffix("_"), None)
    if name in _IN_PLACE and plain in BUILDERS:
        return plain, args, {**kwargs, "inplace": True}
    return target, args, kwargs


def _batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Call:
    return F.batch_norm, (x, mean, var, weight, bias, training, momentum, eps), {}


def _dropout(function: Callable[..., Any]) -> Callable[..., Call]:
    return lambda x, p, train: (function, (x, p, train), {})


def _index(x: Any, indices: Sequence[Any]) -> Call:
    places = tuple(slice(None) if each is None else each for each in indices)
    return operator.getitem, (x, places), {}


def _constant_pad(x: Any, pad: Any, value: Any = 0) -> Call:
    return F.pad, (x, pad, "constant", value), {}


def _pad(mode: str) -> Callable[..., Call]:
    return lambda x, pad: (F.pad, (x, pad, mode), {})


def _split(x: Any, sizes: Any, dim: int = 0) -> Call:
    return torch.split, (x, sizes, dim), {}


def _view(x: Any, sizes: Any) -> Call:
    return "view", (x, sizes), {}


def _upsample(mode: str, aligns: bool) -> Callable[..., Call]:
    def call(x: Any, size: Any, *rest: Any) -> Call:
        align, factors = rest if aligns else (None, *rest)
        return F.interpolate, (x, size, factors, mode, align), {}

    return call


def _adaptive_max(function: Callable[..., Any]) -> Callable[..., Call]:
    return lambda x, size: (function, (x, size), {})


_IN_PLACE = ("silu_", "relu6_", "hardswish_", "hardsigmoid_", "elu_", "celu_", "selu_", "mish_")
_FIRST_OF_TWO: tuple[Any, ...] = (
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
)  # ATen returns indices as well

_FORMS: dict[str, Callable[..., Call]] = {
    "batch_norm": _batch_norm,
    "dropout": _dropout(F.dropout),
    "dropout_": _dropout(F.dropout),
    "feature_dropout": _dropout(F.dropout2d),
    "feature_dropout_": _dropout(F.dropout2d),
    "index": _index,
    "constant_pad_nd": _constant_pad,
    "reflection_pad1d": _pad("reflect"),
    "reflection_pad2d": _pad("reflect"),
    "replication_pad1d": _pad("replicate"),
    "replication_pad2d": _pad("replicate"),
    "split_with_sizes": _split,
    "_unsafe_view": _view,
    "upsample_nearest1d": _upsample("nearest", aligns=False),
    "upsample_nearest2d": _upsample("nearest", aligns=False),
    "_upsample_nearest_exact1d": _upsample("nearest-exact", aligns=False),
    "_upsample_nearest_exact2d": _upsample("nearest-exact", aligns=False),
    "upsample_linear1d": _upsample("linear", aligns=True),
    "upsample_bilinear2d": _upsample("bilinear", aligns=True),
    "adaptive_max_pool1d": _adaptive_max(F.adaptive_max_pool1d),
    "adaptive_max_pool2d": _adaptive_max(F.adaptive_max_pool2d),
}
"""ATen operations whose function has another name or other arguments."""
