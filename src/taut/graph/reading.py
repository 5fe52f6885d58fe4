"""Live readers: expressions of a module's parameters and buffers, evaluated when called."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from taut.operators.registry import BUILDERS

_IN_PLACE = (
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.ipow,
    operator.setitem,
)
_HARMLESS = ("detach_", "requires_grad_")  # change no element
_CHANGES = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.dropout._DropoutNd,
)


@dataclass(frozen=True, eq=False)
class Expression:
    """The value of the last of ``nodes``, none of which depends on the image.

    The nodes stand in topological order. Each is evaluated once a call, so a call
    takes time linear in their number, and nothing is kept between calls. ``given`` holds
    values of nodes that are not evaluated: sizes.
    """

    root: nn.Module
    nodes: tuple[fx.Node, ...]
    given: Mapping[fx.Node, Any] = field(default_factory=dict)

    def __call__(self) -> Tensor:
        """Evaluate with the parameters of this moment; gradients reach them."""
        found: dict[fx.Node, Any] = dict(self.given)
        for node in self.nodes:
            found[node] = self._value(node, found)
        result: Tensor = found[self.nodes[-1]]
        return result

    def _value(self, node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return attribute_at(self.root, str(node.target))
        args = fx.node.map_arg(node.args, found.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, found.__getitem__)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        call: Callable[..., Any] = node.target  # type: ignore[assignment]
        return call(*args, **kwargs)


def attribute_at(root: nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path of modules."""
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def writes_in_place(node: fx.Node) -> bool:
    """Whether a call says that it changes the memory of an argument."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.is_mutable and _plain(target._schema.name) not in _HARMLESS
    if node.op == "call_function" and target in _IN_PLACE:
        return True
    if node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None:
        return True
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    called = node.op in ("call_method", "call_function")
    return called and name.endswith("_") and not name.endswith("__") and name not in _HARMLESS


def why_not_live(root: nn.Module, node: fx.Node) -> str:
    """Return why a node cannot be evaluated at every call; empty where it can."""
    if writes_in_place(node):
        return "in place on a parameter or buffer"
    if node.op != "call_module":
        return ""
    module = root.get_submodule(str(node.target))
    known = isinstance(module, ParametrizationList) or type(module) in BUILDERS
    if not known or isinstance(module, _CHANGES):
        return "on parameters alone"
    return ""


def _plain(name: str) -> str:
    return name.rpartition("::")[2]
