"""Properties that are linear in the outputs: a union of polyhedra that must not be reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taut.errors import PropertyError


@dataclass(frozen=True, eq=False)
class Specification:
    r"""The outputs that are unsafe, in disjunctive normal form: a union over groups of rows.

    .. math:: U = \bigcup_g \{ z : a_r z \le b_r \text{ for every row } r \text{ of group } g \}

    The inequalities are **not strict**, as those of VNN-LIB are: a point on the border is
    unsafe. So a proof needs, in every group, some row whose :math:`a_r z - b_r` is **above** 0
    on the whole region, and a counterexample a group all of whose rows are at most 0.

    Attributes
    ----------
    rows
        Coefficients a, float64 ``(R, K)``.
    offsets
        Right-hand sides b, float64 ``(R,)``.
    groups
        The group of each row, int64 ``(R,)``: ascending from 0, none left out.

    Raises
    ------
    PropertyError
        When shapes or types do not fit, a number is not finite, or groups are out of order.

    """

    rows: Tensor
    offsets: Tensor
    groups: Tensor

    def __post_init__(self) -> None:
        if self.rows.dim() != 2 or 0 in self.rows.shape:
            raise PropertyError(
                f"a specification needs rows (R, outputs), got {tuple(self.rows.shape)}"
            )
        if self.offsets.shape != self.rows.shape[:1] or self.groups.shape != self.rows.shape[:1]:
            raise PropertyError(
                f"a specification of {len(self.rows)} rows needs as many offsets and groups, got "
                f"{tuple(self.offsets.shape)} and {tuple(self.groups.shape)}"
            )
        if {self.rows.dtype, self.offsets.dtype} != {torch.float64}:
            raise PropertyError("rows and offsets of a specification must be float64")
        if not bool(torch.isfinite(self.rows).all() and torch.isfinite(self.offsets).all()):
            raise PropertyError("a specification holds NaN or infinity")
        steps = self.groups.diff()
        if (
            self.groups.dtype != torch.int64
            or int(self.groups[0]) != 0
            or bool(((steps < 0) | (steps > 1)).any())
        ):
            raise PropertyError("groups of a specification must ascend from 0, in int64")

    @classmethod
    def margins(cls, label: int, classes: int) -> Specification:
        """Return "the label wins": each other class with a logit at least as large is a group."""
        _check_class(label, classes)
        others = [j for j in range(classes) if j != label]
        return cls._apart(_eye(classes)[label] - _eye(classes)[others], torch.zeros(len(others)))

    @classmethod
    def targeted(cls, label: int, target: int, classes: int) -> Specification:
        """Return "the label beats the target": one group of one row, ``z_label - z_target``."""
        _check_class(label, classes)
        _check_class(target, classes)
        if label == target:
            raise PropertyError(f"label and target are both {label}; name two classes")
        return cls._apart((_eye(classes)[label] - _eye(classes)[target])[None], torch.zeros(1))

    @classmethod
    def within(cls, lower: Tensor, upper: Tensor) -> Specification:
        """Return "every output stays strictly between ``lower`` and ``upper``", ``(K,)`` each."""
        eye = _eye(len(lower))
        return cls._apart(torch.cat([eye, -eye]), torch.cat([lower, -upper]))

    @classmethod
    def _apart(cls, rows: Tensor, offsets: Tensor) -> Specification:
        return cls(rows, offsets.double(), torch.arange(len(rows)))

    @property
    def outputs(self) -> int:
        """How many outputs K the rows are over."""
        return self.rows.shape[1]

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.groups[-1]) + 1

    @property
    def single(self) -> bool:
        """Whether every group is one row, so that each row has to be positive by itself."""
        return self.count == len(self.rows)

    def values(self, outputs: Tensor) -> Tensor:
        """Return ``a_r z - b_r`` at points ``(B, K)``, shape ``(B, R)``, in their precision."""
        return outputs @ self.rows.to(outputs).T - self.offsets.to(outputs)

    def by_group(self, values: Tensor) -> Tensor:
        """Return the largest of each group's rows, ``(B, R)`` to ``(B, G)``; NaN stays NaN.

        Of the rows' values it tells whether a point is in a group (at most 0), of their lower
        bounds whether the group is proved not to be reached (above 0).
        """
        index = self.groups.to(values.device).expand_as(values)
        empty = values.new_full((len(values), self.count), -torch.inf)
        return empty.scatter_reduce(1, index, values, "amax", include_self=False)

    def proved(self, lower: Tensor) -> Tensor:
        """Tell from lower bounds of the rows, ``(B, R)``, where no group is reached; ``(B,)``."""
        return (self.by_group(lower) > 0).all(1)

    def holds(self, outputs: Tensor) -> Tensor:
        """Tell at points ``(B, K)`` whether they are safe: in no group, border included; ``(B,)``.

        False for NaN too.
        """
        return self.proved(self.values(outputs))

    def violated(self, outputs: Tensor) -> Tensor:
        """Tell at points ``(B, K)`` whether they are unsafe, border included; False for NaN."""
        return (self.by_group(self.values(outputs)) <= 0).any(1)


def _eye(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)


def _check_class(label: int, classes: int) -> None:
    if not 0 <= label < classes or classes < 2:
        raise PropertyError(f"class {label} is out of range for {classes} classes")
