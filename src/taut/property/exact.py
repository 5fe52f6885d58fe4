"""Properties in exact arithmetic: what a file says, before any rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from taut.errors import PropertyError


@dataclass(frozen=True)
class Constraint:
    r"""The half-space :math:`\sum_k a_k z_k \le b` of outputs.

    Attributes
    ----------
    terms
        Outputs k and their coefficients :math:`a_k`, ascending; none is 0.
    offset
        The right-hand side b.

    """

    terms: tuple[tuple[int, Fraction], ...]
    offset: Fraction

    def holds(self, outputs: Sequence[Fraction]) -> bool:
        """Whether a point lies in the half-space."""
        return sum(a * outputs[k] for k, a in self.terms) <= self.offset

    def representable(self) -> Constraint:
        """Return the same half-space with coefficients that float64 holds exactly.

        Where decimals have no exact float64 the row is multiplied by their common denominator
        and divided by a power of two.

        Raises
        ------
        PropertyError
            When that makes whole numbers of more than 53 bits.

        """
        if all(_is_float(a) for _, a in self.terms):
            return self
        factor = Fraction(math.lcm(*(a.denominator for _, a in self.terms)))
        largest = max(abs(a) for _, a in self.terms) * factor
        factor /= 2 ** (int(largest).bit_length() - 1)
        terms = tuple((k, a * factor) for k, a in self.terms)
        if not all(_is_float(a) for _, a in terms):
            raise PropertyError(
                "the coefficients of one constraint need more than 53 bits; write them with "
                "fewer digits"
            )
        return Constraint(terms, self.offset * factor)


@dataclass(frozen=True)
class Exact:
    """A box of inputs and the unsafe outputs over it, in exact numbers.

    Attributes
    ----------
    lower, upper
        Ends of the box, one of each for every input; ends belong to the box.
    groups
        The unsafe outputs: in one group all constraints hold.

    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    groups: tuple[tuple[Constraint, ...], ...]

    def inside(self, point: Sequence[Fraction]) -> bool:
        """Whether a point of inputs lies in the box."""
        return len(point) == len(self.lower) and all(
            low <= x <= high for low, x, high in zip(self.lower, point, self.upper, strict=True)
        )

    def unsafe(self, outputs: Sequence[float]) -> bool:
        """Whether outputs, taken as the exact numbers they are, lie in a group.

        NaN and infinity lie in none.
        """
        if not all(math.isfinite(z) for z in outputs):
            return False
        exact = [Fraction(z) for z in outputs]
        return any(all(row.holds(exact) for row in group) for group in self.groups)

    def nearest(self, point: Sequence[float]) -> tuple[Fraction, ...]:
        """Return the shortest decimals of a point, moved into the box where they leave it.

        Where an end of the box has no float64 of its own the result is that end.
        """
        return tuple(
            min(max(Fraction(repr(float(x))), low), high)
            for low, x, high in zip(self.lower, point, self.upper, strict=True)
        )


def neighbours(value: Fraction) -> tuple[float, float]:
    """Return the largest float64 that is at most an exact number, and the smallest at least it.

    Raises
    ------
    PropertyError
        When the number is beyond the range of float64.

    """
    try:
        nearest = float(value)
    except OverflowError:
        raise PropertyError("a number is beyond the range of float64") from None
    above, below = nearest.as_integer_ratio()
    difference = above * value.denominator - value.numerator * below
    if difference == 0:
        return nearest, nearest
    if difference > 0:
        return math.nextafter(nearest, -math.inf), nearest
    return nearest, math.nextafter(nearest, math.inf)


def _is_float(value: Fraction) -> bool:
    try:
        return Fraction(float(value)) == value
    except OverflowError:
        return False
