"""A box of inputs with a property over it, exact and as float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.errors import PropertyError
from taut.property.exact import Exact, neighbours
from taut.property.specification import Specification


@dataclass(frozen=True, eq=False)
class Case:
    """One box of inputs and what must not happen over it.

    The float64 numbers are rounded so that a proof about them is one about the exact numbers:
    the box outwards, the right-hand sides up; coefficients are exact.

    Attributes
    ----------
    lower, upper
        The box ``(n,)``, float64, rounded outwards.
    inner_lower, inner_upper
        The same rounded inwards, for counterexamples; of an input for which no float64 lies
        between the exact ends both are the one that is nearest.
    specification
        The unsafe outputs; rows in the order of the groups.
    exact
        The same as it was written.

    """

    lower: Tensor
    upper: Tensor
    inner_lower: Tensor
    inner_upper: Tensor
    specification: Specification
    exact: Exact

    @classmethod
    def of(cls, exact: Exact, outputs: int) -> Case:
        """Round an exact box and its constraints on ``outputs`` outputs.

        Raises
        ------
        PropertyError
            When a number is beyond float64, a box is empty, a group has no constraint, or a
            constraint names an output that is not there.

        """
        if any(low > high for low, high in zip(exact.lower, exact.upper, strict=True)):
            raise PropertyError("the box of inputs is empty")
        low = [neighbours(value) for value in exact.lower]
        high = [neighbours(value) for value in exact.upper]
        inner = _tensor(above for _, above in low), _tensor(below for below, _ in high)
        none = inner[0] > inner[1]  # both ends are between the same two float64
        nearest = _tensor(map(float, exact.lower)) if bool(none.any()) else inner[0]
        return cls(
            _tensor(below for below, _ in low),
            _tensor(above for _, above in high),
            inner[0].where(~none, nearest),
            inner[1].where(~none, nearest),
            _specification(exact, outputs),
            exact,
        )


def _tensor(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _specification(exact: Exact, outputs: int) -> Specification:
    """Return the groups as rows; right-hand sides are rounded up, which makes the sets larger."""
    if not exact.groups or not all(exact.groups):
        raise PropertyError("a group of a property has no constraint on the outputs")
    rows, offsets, groups = [], [], []
    for number, group in enumerate(exact.groups):
        for constraint in group:
            scaled = constraint.representable()
            row = [0.0] * outputs
            for k, a in scaled.terms:
                if not 0 <= k < outputs:
                    raise PropertyError(f"there is no output {k} among {outputs}")
                row[k] = float(a)
            rows.append(row)
            offsets.append(neighbours(scaled.offset)[1])
            groups.append(number)
    return Specification(
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(offsets, dtype=torch.float64),
        torch.tensor(groups),
    )
