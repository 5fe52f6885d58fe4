"""VNN-LIB, version 2, read by the package ``vnnlib``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taut.errors import ConfigError, PropertyError, first_line
from taut.formats.vnnlib.first import DEEPEST, exact
from taut.formats.vnnlib.formula import (
    Alternatives,
    Both,
    Form,
    all_of,
    any_of,
    at_most,
    product,
    times,
    total,
)

if TYPE_CHECKING:
    import vnnlib

_NUMBERS = ("F16", "F32", "F64")


def parse(text: str) -> tuple[list[Alternatives], int, int]:
    """Return the formulas of a text, and how many inputs and outputs its network has.

    Raises
    ------
    PropertyError
        When the package refuses the text, or it holds more than one network with one input and
        one output, or something besides ``and``, ``or``, ``<=``, ``>=``, ``==`` and linear
        expressions. Strict comparisons are refused: their border would have to be told apart.
    ConfigError
        When the package ``vnnlib`` is not installed.

    """
    try:
        import vnnlib
    except ImportError as error:
        raise ConfigError(
            f"VNN-LIB 2 needs the package vnnlib ({error}); pip install 'taut[vnnlib]'"
        ) from error
    _refuse_depth(text)  # the package recurses without limit
    try:
        query = vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise PropertyError(_told(str(error))) from error
    if len(query.networks) != 1:
        raise PropertyError(f"the property is about {len(query.networks)} networks, not about one")
    (network,) = query.networks
    if len(network.inputs) != 1 or len(network.outputs) != 1 or network.hidden:
        raise PropertyError(
            "the property needs a network of one input and one output, without hidden variables"
        )
    source, result = network.inputs[0], network.outputs[0]
    for variable in (source, result):
        if variable.dtype.name not in _NUMBERS:
            raise PropertyError(f"{variable.name} is of type {variable.dtype.name}, not a float")
    reader = _Reader({source.name: True, result.name: False})
    formulas = [reader.formula(assertion.expr) for assertion in query.assertions]
    return formulas, math.prod(source.shape), math.prod(result.shape)


def _refuse_depth(text: str) -> None:
    depth = 0
    for line in text.splitlines():
        for character in line.partition(";")[0]:
            depth += (character == "(") - (character == ")")
            if depth > DEEPEST:
                raise PropertyError(f"more than {DEEPEST} parentheses within each other")


def _told(message: str) -> str:
    """Return the first error of the package's report, which is JSON or one line."""
    try:
        report = json.loads(message)["errors"][0]
        return f"line {report['line']}: {report['message']}: {report['hint']}"
    except (ValueError, LookupError, TypeError):
        return first_line(PropertyError(message))


class _Reader:
    """Turns the package's trees into formulas; ``names`` tells inputs (True) from outputs."""

    def __init__(self, names: dict[str, bool]) -> None:
        self.names = names

    def formula(self, tree: vnnlib.BoolExpr) -> Alternatives:
        kind = type(tree).__name__
        if kind in ("And", "Or"):
            parts = [self.formula(part) for part in tree.args]  # type: ignore[attr-defined]
            return all_of(parts) if kind == "And" else any_of(parts)
        if kind not in ("LessEqual", "GreaterEqual", "Equal"):
            raise PropertyError(f"{tree}: {kind} is not understood; known: and, or, <=, >=, ==")
        left = self._form(tree.lhs)  # type: ignore[attr-defined]
        right = self._form(tree.rhs)  # type: ignore[attr-defined]
        if kind == "LessEqual":
            return [at_most(left, right)]
        if kind == "GreaterEqual":
            return [at_most(right, left)]
        below, above = at_most(left, right), at_most(right, left)
        return [Both(below.bounds + above.bounds, below.rows + above.rows)]

    def _form(self, tree: vnnlib.ArithExpr) -> Form:
        kind = type(tree).__name__
        if kind == "Var":
            index = {_flat(tree.indices, tree.shape): exact("1")}  # type: ignore[attr-defined]
            if self.names[tree.name]:  # type: ignore[attr-defined]
                return Form(index, {}, exact("0"))
            return Form({}, index, exact("0"))
        if kind in ("Float", "Int", "IntExpr"):
            return Form({}, {}, exact(tree.lexeme))  # type: ignore[attr-defined]
        if kind == "Negate":
            return times(self._form(tree.expr), exact("-1"))  # type: ignore[attr-defined]
        if kind == "Minus":
            rest = total([self._form(part) for part in tree.rest])  # type: ignore[attr-defined]
            head = self._form(tree.head)  # type: ignore[attr-defined]
            return total([head, times(rest, exact("-1"))])
        if kind in ("Plus", "Multiply"):
            parts = [self._form(part) for part in tree.args]  # type: ignore[attr-defined]
            return total(parts) if kind == "Plus" else product(parts)
        raise PropertyError(f"{tree}: {kind} is not understood")


def _flat(indices: Sequence[int], shape: Sequence[int]) -> int:
    """Return the place of an element in row-major order."""
    place = 0
    for index, size in zip(indices, shape, strict=True):
        place = place * size + index
    return place
