"""One node of an ONNX graph, as the rules see it, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.formats.onnx.read import Array
from taut.formats.onnx.value import Builder, Value

if TYPE_CHECKING:
    from onnx import NodeProto

Operand = Value | Array


@dataclass
class Call:
    """A node with its inputs; it remembers which attributes a rule has read.

    Attributes
    ----------
    inputs
        Tensors that depend on the input as :class:`Value`, constants as arrays, None where an
        optional input is left out.
    bias
        A constant that the next node adds to the result, for rules in :data:`TAKES_BIAS`; a rule
        that adds it itself says so by :attr:`took_bias`.

    """

    node: NodeProto
    inputs: tuple[Operand | None, ...]
    opset: int
    builder: Builder
    bias: Array | None = None
    took_bias: bool = False
    read: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The network's element type as numpy has it."""
        return np.dtype(torch.empty(0, dtype=self.builder.dtype).numpy().dtype)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute as a plain value; bytes as text."""
        from onnx import helper

        self.read.add(name)
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                if isinstance(value, bytes):
                    return value.decode()
                return list(value) if attribute.type >= attribute.FLOATS else value
        return default

    def input(self, index: int) -> Operand | None:
        """Return an input, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int = 0) -> Value:
        """Return an input that must depend on the network's input."""
        found = self.input(index)
        if not isinstance(found, Value):
            raise UnsupportedOperator(f"whose input {index} is constant")
        return found

    def optional(self, index: int) -> Array | None:
        """Return an input that must be constant; None where it is left out."""
        found = self.input(index)
        if isinstance(found, Value):
            raise UnsupportedOperator(f"whose input {index} depends on the network's input")
        return found

    def array(self, index: int) -> Array:
        """Return an input that must be there and constant."""
        found = self.optional(index)
        if found is None:
            raise UnsupportedOperator(f"without input {index}")
        return found

    def tensor(self, array: Array) -> Tensor:
        """Return a constant as a tensor of the network's type, every element finite."""
        found = torch.from_numpy(np.array(array, order="C"))
        if found.dtype != self.builder.dtype:
            raise UnsupportedOperator(
                f"with a constant of {found.dtype} in a network of {self.builder.dtype}"
            )
        if not bool(torch.isfinite(found).all()):
            raise UnsupportedOperator("with weights that are NaN or infinite")
        return found

    def numbers(self, name: str, index: int | None = None) -> list[int] | None:
        """Return whole numbers given by an attribute or, in newer opsets, by an input."""
        found = self.attribute(name)
        if found is None and index is not None:
            array = self.optional(index)
            found = None if array is None else array.reshape(-1).tolist()
        return None if found is None else [int(v) for v in found]

    def axes(self, rank: int, index: int | None = None) -> list[int] | None:
        """Return the axes a node names, counted from the front."""
        found = self.numbers("axes", index)
        return None if found is None else [axis_of(axis, rank) for axis in found]


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front; negative ones count from behind.

    Raises
    ------
    UnsupportedOperator
        When a tensor of so many axes has no such one.

    """
    if not -rank <= axis < rank:
        raise UnsupportedOperator(f"along the axis {axis} of a tensor of {rank} axes")
    return axis % rank


Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}
"""Rules by the name of the ONNX operator."""

TAKES_BIAS = {"MatMul"}
"""Operators whose rule can add the constant of an Add node that follows."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Declare a function as the rule of operators.

    It raises :class:`UnsupportedOperator` with words that go on "no rule for the ONNX operator
    Conv"; attributes that it does not read are refused after it returns.
    """

    def add(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES
            RULES[name] = function
        return function

    return add
