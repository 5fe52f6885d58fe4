"""VNN-LIB read a second time, in the plainest way: nested lists, evaluated at points."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from taut.formats.vnnlib import VnnLib

Point = Mapping[str, Fraction]


def nested(text: str) -> list[Any]:
    """Return the expressions of a text as nested lists of words."""
    words = re.sub(r";[^\n]*", " ", text).replace("(", " ( ").replace(")", " ) ").split()
    stack: list[list[Any]] = [[]]
    for word in words:
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    (whole,) = stack
    return whole


def number(tree: Any, at: Point) -> Fraction:
    if isinstance(tree, str):
        return at[tree] if tree[0] in "XY" else Fraction(Decimal(tree))
    values = [number(part, at) for part in tree[1:]]
    if tree[0] == "+":
        return sum(values, Fraction(0))
    if tree[0] == "*":
        product = Fraction(1)
        for value in values:
            product *= value
        return product
    assert tree[0] == "-"
    return values[0] - sum(values[1:]) if len(values) > 1 else -values[0]


def truth(tree: Any, at: Point) -> bool:
    if tree[0] == "and":
        return all(truth(part, at) for part in tree[1:])
    if tree[0] == "or":
        return any(truth(part, at) for part in tree[1:])
    left, right = (number(part, at) for part in tree[1:])
    return left <= right if tree[0] == "<=" else {">=": left >= right}[tree[0]]


def assertions(text: str) -> list[Any]:
    """Return what a text asserts, as nested lists of words."""
    return [tree[1] for tree in nested(text) if tree[0] == "assert"]


def satisfied(trees: list[Any], x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether every assertion holds at a point."""
    at = {f"X_{i}": value for i, value in enumerate(x)}
    at |= {f"Y_{i}": value for i, value in enumerate(y)}
    return all(truth(tree, at) for tree in trees)


def claimed(found: VnnLib, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether what was read says that a point is a counterexample."""
    return any(
        case.exact.inside(x)
        and any(all(row.holds(y) for row in group) for group in case.exact.groups)
        for case in found.cases
    )


def rounded_claim(found: VnnLib, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """The same of the float64 boxes and specifications, in exact arithmetic."""
    for case in found.cases:
        low, high = case.lower.tolist(), case.upper.tolist()
        if not all(a <= v <= b for a, v, b in zip(low, x, high, strict=True)):
            continue
        specification = case.specification
        inside = [True] * specification.count
        for row, offset, group in zip(
            specification.rows.tolist(),
            specification.offsets.tolist(),
            specification.groups.tolist(),
            strict=True,
        ):
            value = sum((Fraction(a) * v for a, v in zip(row, y, strict=True)), Fraction(0))
            inside[group] &= value <= Fraction(offset)
        if any(inside):
            return True
    return False


def points(
    text: str, found: VnnLib, count: int, generator: random.Random
) -> list[tuple[list[Fraction], list[Fraction]]]:
    """Return points whose numbers are those of the text, a little more or less, or in between.

    Half of the inputs are ends of the boxes that were read.
    """
    told = [Fraction(Decimal(word)) for word in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]
    told = sorted({*told, Fraction(0)})
    tiny = Fraction(1, 10**30)

    def draw() -> Fraction:
        value = generator.choice(told)
        return generator.choice(
            [value, value, value + tiny, value - tiny, (value + generator.choice(told)) / 2]
        )

    def end(index: int) -> Fraction:
        exact = generator.choice(found.cases).exact
        return generator.choice([exact.lower, exact.upper])[index]

    made = []
    for _ in range(count):
        near = generator.random() < 0.7
        x = [end(i) if near and generator.random() < 0.8 else draw() for i in range(found.inputs)]
        made.append((x, [draw() for _ in range(found.outputs)]))
    return made
