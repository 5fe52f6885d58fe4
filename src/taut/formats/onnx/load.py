"""From an ONNX file to an ordinary ``nn.Module``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from taut.errors import ModelError, UnsupportedOperator, first_line
from taut.formats.onnx import elementwise, layers, pooling, shapes, stairs  # noqa: F401 - rules
from taut.formats.onnx.call import RULES, TAKES_BIAS, Call, Operand
from taut.formats.onnx.network import OnnxNetwork
from taut.formats.onnx.read import Array, Port, check_weights, opset_of, ports, read_model
from taut.formats.onnx.value import Builder, Value

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CHANCE = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
           "RandomUniformLike")  # fmt: skip


def load_onnx(path: str | os.PathLike[str]) -> OnnxNetwork:
    """Return the network of an ONNX file, in evaluation mode, on the CPU.

    The network is an ordinary module of PyTorch's layers and functions with the file's weights
    as its parameters, in the file's precision; ``.double()`` converts them. It takes batches of
    any size, also where the file says 1: the file's network is applied to each sample by itself.
    A file whose first axis is neither 1 nor open has no batch axis, and all its axes are those
    of one sample; so it is with a vector (n,).

    Parameters
    ----------
    path
        A ``.onnx`` or ``.onnx.gz`` file with one input and one output of floating-point
        numbers.

    Raises
    ------
    UnsupportedOperator
        For an operator, or an attribute of one, without a rule: names operator, node and opset.
    ModelError
        When the file is missing, no ONNX file or damaged, has several inputs or outputs or axes
        of unknown size, keeps weights in a file that is not there, or holds NaN.
    ConfigError
        When the package ``onnx`` is not installed.

    """
    file = Path(path)
    return network_of(read_model(file), file)


def network_of(model: ModelProto, path: Path) -> OnnxNetwork:
    """Return the network of a model that is well-formed; ``path`` is what errors call it."""
    check_weights(model, path)
    entry, leave = ports(model, path)
    free = entry.sizes[0] is None
    batched = len(entry.sizes) > 1 and entry.sizes[0] in (1, None)
    shape = tuple(1 if size is None else size for size in entry.sizes)
    dtype = torch.from_numpy(np.empty(0, entry.dtype)).dtype
    builder = Builder(shape, 0 if batched else None, dtype, free)
    result = _Lowering(model, path, builder, entry).run(leave.name)
    _check_output(result, leave, path)
    builder.graph.output(result.node)
    for node in reversed(builder.graph.nodes):
        if node.op == "call_method" and not node.users:  # what a staircase has made unnecessary
            builder.graph.erase_node(node)
    network = fx.GraphModule(builder.root, builder.graph, "Network")
    return OnnxNetwork(network, builder.input.rest, result.rest, opset_of(model)).eval()


def _check_output(result: Value, leave: Port, path: Path) -> None:
    fits = len(leave.sizes) == len(result.shape) and all(
        told in (None, size) for told, size in zip(leave.sizes, result.shape, strict=True)
    )
    if leave.sizes and not fits:
        raise ModelError(
            f"{path} says that its output {leave.name!r} is of shape {leave.sizes}, and computes "
            f"one of shape {result.shape}; export it again"
        )


class _Lowering:
    """Goes through the nodes of a graph, in order, folding what is constant."""

    def __init__(self, model: ModelProto, path: Path, builder: Builder, entry: Port) -> None:
        from onnx import numpy_helper

        self.model = model
        self.path = path
        self.builder = builder
        self.opset = opset_of(model)
        self.known: dict[str, Operand] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.known[entry.name] = builder.input
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.next: dict[str, NodeProto] = {
            name: node for node in model.graph.node for name in node.input
        }
        self.skipped: set[str] = set()

    def run(self, output: str) -> Value:
        for node in self.model.graph.node:
            if node.output[0] not in self.skipped:
                self._node(node, output)
        result = self.known.get(output)
        if not isinstance(result, Value):
            raise ModelError(f"{self.path}: the output {output!r} does not depend on the input")
        return result

    def _node(self, node: NodeProto, output: str) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise self._unsupported(node, f"of the domain {node.domain!r}")
        inputs = tuple(self._operand(node, name) for name in node.input)
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise self._unsupported(node, "with a graph of its own")
        if not any(isinstance(x, Value | stairs.Reached) for x in inputs):
            self._fold(node, inputs)
            return
        counted = any(isinstance(x, stairs.Reached) for x in inputs)
        if not counted and node.op_type not in RULES:
            raise self._unsupported(node)
        add, bias = self._bias_after(node, output)
        call = Call(node, inputs, self.opset, self.builder, bias)
        try:
            found = stairs.follow(call) if counted else RULES[node.op_type](call)
        except UnsupportedOperator as error:
            raise self._unsupported(node, str(error)) from None
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise self._unsupported(node, f"on these tensors: {first_line(error)}") from error
        self._check_attributes(node, call)
        results = found if isinstance(found, tuple) else (found,)
        self.known.update(zip(node.output, results, strict=False))
        if call.took_bias:
            assert add is not None
            self.skipped.add(add.output[0])
            self.known[add.output[0]] = results[0]

    def _operand(self, node: NodeProto, name: str) -> Operand | None:
        if not name:
            return None
        if name not in self.known:
            raise self._unsupported(node, f"on {name!r}, which no rule computes,")
        return self.known[name]

    def _bias_after(self, node: NodeProto, output: str) -> tuple[NodeProto | None, Array | None]:
        """Return the Add node that alone reads the result, and the constant it adds."""
        name = node.output[0]
        add = self.next.get(name)
        if node.op_type not in TAKES_BIAS or add is None or add.op_type != "Add":
            return None, None
        if self.readers[name] != 1 or name == output or add.domain not in ("", "ai.onnx"):
            return None, None
        other = self.known.get(add.input[1] if add.input[0] == name else add.input[0])
        return (add, other) if isinstance(other, np.ndarray) else (None, None)

    def _check_attributes(self, node: NodeProto, call: Call) -> None:
        for attribute in node.attribute:
            if attribute.name not in call.read:
                raise self._unsupported(node, f"with the attribute {attribute.name!r}")

    def _fold(self, node: NodeProto, inputs: tuple[Any, ...]) -> None:
        """Compute a node whose inputs are constant, with ONNX's own reference."""
        if node.op_type in _CHANCE:
            raise self._unsupported(node, "that draws random numbers")
        from onnx.reference import ReferenceEvaluator

        feeds: Mapping[str, Any] = {
            name: array for name, array in zip(node.input, inputs, strict=True) if name
        }
        try:
            results = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, dict(feeds))
        except Exception as error:  # the reference raises whatever numpy does
            raise self._unsupported(node, f"on constants: {first_line(error)}") from error
        self.known.update({n: np.asarray(r) for n, r in zip(node.output, results, strict=True)})

    def _unsupported(self, node: NodeProto, why: str = "") -> UnsupportedOperator:
        return UnsupportedOperator(
            f"{self.path}: no rule for the ONNX operator {node.op_type} "
            f"{why + ' ' if why else ''}at node {node.name or node.output[0]!r}, "
            f"opset {self.opset}" + ("" if why else f"; supported: {', '.join(sorted(RULES))}")
        )
