"""Counterexamples as text, in the format of VNN-COMP."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from taut.errors import PropertyError


def counterexample(inputs: Sequence[Fraction], outputs: Sequence[float]) -> str:
    """Return ``((X_0 v) ... (Y_0 v) ...)``, one pair a line; inputs are exact decimals.

    Source: rules of the International Verification of Neural Networks Competition.
    """
    pairs = [f"(X_{index} {decimal(value)})" for index, value in enumerate(inputs)]
    pairs += [f"(Y_{index} {value!r})" for index, value in enumerate(outputs)]
    return "(" + "\n ".join(pairs) + ")"


def decimal(value: Fraction) -> str:
    """Return the exact decimal expansion of a number.

    Raises
    ------
    PropertyError
        When it has none that ends.

    """
    rest, places = value.denominator, 0
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    while rest % 5 == 0:
        rest //= 5
        places += 1
    if rest != 1:
        raise PropertyError(f"{value} has no finite decimal expansion")
    places = max(places, twos)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = digits if not places else f"{digits[:-places]}.{digits[-places:]}"
    return f"-{text}" if value < 0 else text
