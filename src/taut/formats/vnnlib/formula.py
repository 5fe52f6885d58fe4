"""What a property says, as an or of ands of comparisons, and as boxes with specifications."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from taut.errors import PropertyError
from taut.property.case import Case
from taut.property.exact import Constraint, Exact

LARGEST = 10_000
"""Alternatives that a property may have when its ands and ors are multiplied out."""


class Bound(NamedTuple):
    """An end of one input: ``x <= value`` if ``upper``, else ``x >= value``."""

    which: int
    upper: bool
    value: Fraction


class Both(NamedTuple):
    """A conjunction: every bound and every constraint holds."""

    bounds: tuple[Bound, ...]
    rows: tuple[Constraint, ...]


Alternatives = Sequence[Both]
"""A formula in disjunctive normal form: one of these holds."""


class Form(NamedTuple):
    """A linear expression: coefficients of inputs and of outputs, and a constant."""

    inputs: Mapping[int, Fraction]
    outputs: Mapping[int, Fraction]
    constant: Fraction

    @property
    def is_constant(self) -> bool:
        """Whether no variable occurs."""
        return not self.inputs and not self.outputs


def total(forms: Sequence[Form]) -> Form:
    """Return the sum of linear expressions."""
    inputs: dict[int, Fraction] = {}
    outputs: dict[int, Fraction] = {}
    for form in forms:
        for into, terms in ((inputs, form.inputs), (outputs, form.outputs)):
            for index, value in terms.items():
                into[index] = into.get(index, Fraction(0)) + value
    return Form(inputs, outputs, sum((form.constant for form in forms), Fraction(0)))


def times(form: Form, factor: Fraction) -> Form:
    """Return a linear expression times a number."""
    return Form(
        {index: value * factor for index, value in form.inputs.items()},
        {index: value * factor for index, value in form.outputs.items()},
        form.constant * factor,
    )


def product(forms: Sequence[Form]) -> Form:
    """Return the product of linear expressions of which one at most is no constant.

    Raises
    ------
    PropertyError
        When more than one holds variables.

    """
    found = Form({}, {}, Fraction(1))
    for form in forms:
        if found.is_constant:
            found = times(form, found.constant)
        elif form.is_constant:
            found = times(found, form.constant)
        else:
            raise PropertyError("a product of variables is not linear")
    return found


def at_most(left: Form, right: Form) -> Both:
    """Return ``left <= right`` as a bound of one input or a constraint on outputs.

    Raises
    ------
    PropertyError
        When it is neither.

    """
    form = total([left, times(right, Fraction(-1))])
    inputs = {index: value for index, value in form.inputs.items() if value}
    outputs = sorted((index, value) for index, value in form.outputs.items() if value)
    if not inputs and not outputs:
        raise PropertyError("a comparison in which no variable is left")
    if not inputs:
        row = Constraint(tuple(outputs), -form.constant)
        row.representable()  # refused here, where the place in the file is known
        return Both((), (row,))
    if outputs or len(inputs) > 1:
        raise PropertyError(
            "a comparison may hold one input alone or outputs; regions that are no boxes are "
            "not understood"
        )
    ((index, factor),) = inputs.items()
    value = -form.constant / factor
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LONGEST:
        raise PropertyError(f"the bound of X_{index} has more digits than are read")
    if not _is_decimal(value):
        raise PropertyError(f"the bound of X_{index} is {value}, which is no finite decimal")
    return Both((Bound(index, factor > 0, value),), ())


_LONGEST = 4000  # bits of a bound, more than any file of numbers needs


def _is_decimal(value: Fraction) -> bool:
    rest = value.denominator
    rest >>= (rest & -rest).bit_length() - 1
    return pow(10, rest.bit_length(), rest) == 0 if rest > 1 else True


def all_of(parts: Sequence[Alternatives]) -> Alternatives:
    """Return the conjunction of formulas, multiplied out.

    Raises
    ------
    PropertyError
        When it has more than :data:`LARGEST` alternatives.

    """
    count = 1
    for part in parts:
        count *= len(part)
        if count > LARGEST:
            raise PropertyError(
                f"the property has more than {LARGEST} alternatives when multiplied out; split it "
                "into several files"
            )
    found = []
    for choice in itertools.product(*parts):
        bounds = tuple(itertools.chain.from_iterable(both.bounds for both in choice))
        rows = tuple(itertools.chain.from_iterable(both.rows for both in choice))
        found.append(Both(bounds, rows))
    return found


def any_of(parts: Sequence[Alternatives]) -> Alternatives:
    """Return the disjunction of formulas."""
    found = list(itertools.chain.from_iterable(parts))
    if len(found) > LARGEST:
        raise PropertyError(f"the property has more than {LARGEST} alternatives; split it")
    return found


def cases(formulas: Sequence[Alternatives], inputs: int, outputs: int) -> tuple[Case, ...]:
    """Return the conjunction of formulas as boxes, each with the outputs that are unsafe there.

    Alternatives with the same box are the groups of one specification.

    Raises
    ------
    PropertyError
        When an input has no lower or no upper end, a box is empty, or an alternative says
        nothing about the outputs.

    """
    lower: dict[int, Fraction] = {}
    upper: dict[int, Fraction] = {}
    common: list[Constraint] = []
    rest = []
    for formula in formulas:
        if len(formula) == 1:
            _narrow(lower, upper, formula[0].bounds)
            common += formula[0].rows
        else:
            rest.append(formula)
    boxes: dict[tuple[tuple[int, Fraction, Fraction], ...], list[tuple[Constraint, ...]]] = {}
    for both in all_of(rest):
        low, high = dict(lower), dict(upper)
        _narrow(low, high, both.bounds)
        _check(low, high, inputs, [bound.which for bound in both.bounds])
        own = sorted({bound.which for bound in both.bounds})
        group = (*common, *both.rows)
        if not group:
            raise PropertyError("nothing is asserted about the outputs")
        boxes.setdefault(tuple((i, low[i], high[i]) for i in own), []).append(group)
    found = []
    for key, groups in boxes.items():
        low = lower | {i: value for i, value, _ in key}
        high = upper | {i: value for i, _, value in key}
        _check(low, high, inputs, range(inputs))
        below, above = (tuple(end[i] for i in range(inputs)) for end in (low, high))
        found.append(Case.of(Exact(below, above, tuple(groups)), outputs))
    return tuple(found)


def _narrow(
    lower: dict[int, Fraction], upper: dict[int, Fraction], bounds: Sequence[Bound]
) -> None:
    for index, is_upper, value in bounds:
        if is_upper:
            upper[index] = min(upper.get(index, value), value)
        else:
            lower[index] = max(lower.get(index, value), value)


def _check(
    lower: Mapping[int, Fraction],
    upper: Mapping[int, Fraction],
    inputs: int,
    which: Sequence[int],
) -> None:
    for index in which:
        if index not in lower or index not in upper:
            side = "lower" if index not in lower else "upper"
            raise PropertyError(f"the input X_{index} has no {side} end; every input needs both")
        if lower[index] > upper[index]:
            raise PropertyError(f"the box of inputs is empty: the ends of X_{index} cross")
