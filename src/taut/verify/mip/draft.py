"""A program in the making: variables and rows are added, in the end they become matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taut.verify.mip.program import Flags, Floats, Ints, Program

CONSTANT = -1
"""The index of no variable."""

_SMALL = 1e-11
"""Entries below it are taken out of the matrix: solvers drop such ones without a word."""


@dataclass(frozen=True, eq=False)
class Terms:
    """Values ``scale * v[index] + shift`` of one variable each, all of shape ``(k,)``.

    Where ``index`` is :data:`CONSTANT` the value is ``shift`` and ``scale`` is zero.
    """

    index: Ints
    scale: Floats
    shift: Floats

    @classmethod
    def constant(cls, shift: Floats) -> Terms:
        """Return values that no variable moves."""
        return cls(np.full(shift.shape, CONSTANT, np.int64), np.zeros_like(shift), shift)

    @classmethod
    def variables(cls, index: Ints) -> Terms:
        """Return the variables themselves."""
        return cls(index, np.ones(index.shape), np.zeros(index.shape))

    def __getitem__(self, chosen: Ints | Flags | tuple[Ints, Ints]) -> Terms:
        return Terms(self.index[chosen], self.scale[chosen], self.shift[chosen])

    def put(self, chosen: Ints | Flags, other: Terms) -> Terms:
        """Return the values with some of them replaced."""
        index, scale, shift = self.index.copy(), self.scale.copy(), self.shift.copy()
        index[chosen], scale[chosen], shift[chosen] = other.index, other.scale, other.shift
        return Terms(index, scale, shift)

    def mapped(self, slope: Floats, shift: Floats) -> Terms:
        """Return ``slope * value + shift``."""
        scale = slope * self.scale
        index = np.where(scale == 0, CONSTANT, self.index)
        return Terms(index, scale, slope * self.shift + shift)

    def at(self, point: Floats) -> Floats:
        """Return the values at a point of the program ``(n,)``."""
        if len(point) == 0:
            return self.shift
        found: Floats = self.scale * point[self.index] + self.shift
        return np.where(self.index == CONSTANT, self.shift, found)


@dataclass(frozen=True, eq=False)
class Sparse:
    """Rows ``(k,)`` of a linear form: entries with their row and variable, and constants.

    No row names a variable twice.
    """

    row: Ints
    index: Ints
    entry: Floats
    constant: Floats

    @classmethod
    def gathered(cls, row: Ints, index: Ints, entry: Floats, constant: Floats) -> Sparse:
        """Return rows from entries that may name a variable several times."""
        width = int(index.max(initial=0)) + 1
        key, place = np.unique(row * width + index, return_inverse=True)
        total = np.bincount(place, entry, len(key)) if len(key) else np.zeros(0)
        kept = total != 0
        return cls(key[kept] // width, key[kept] % width, total[kept], constant)


class Draft:
    """Variables and rows so far. Bounds of variables are finite."""

    def __init__(self) -> None:
        self.count = 0
        self.height = 0
        self.exact = True
        self._variables: list[tuple[Floats, Floats, Flags]] = []
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        self._sides: list[tuple[Floats, Floats]] = []

    def variables(self, lower: Floats, upper: Floats, integer: bool = False) -> Ints:
        """Add variables of any shape within bounds; return their indices, of that shape."""
        found = self.count + np.arange(lower.size).reshape(lower.shape)
        flags = np.full(lower.size, integer)
        self._variables.append((lower.reshape(-1), upper.reshape(-1), flags))
        self.count += lower.size
        return found

    def choices(self, shape: tuple[int, ...]) -> Ints:
        """Add variables that are 0 or 1."""
        return self.variables(np.zeros(shape), np.ones(shape), integer=True)

    def rows(
        self,
        terms: Sequence[tuple[Ints, Floats]],
        lower: Floats,
        upper: Floats,
    ) -> None:
        r"""Add rows :math:`r \le \sum_t a_t v_{i_t} \le s`, one for each element of ``lower``.

        ``terms`` holds indices and coefficients ``(k,)``; constant indices are passed over.
        """
        row = np.arange(len(lower))
        found = [(row[i >= 0], i[i >= 0], a[i >= 0]) for i, a in terms]
        row, index, entry = (np.concatenate(each) for each in zip(*found, strict=True))
        self.sparse_rows(Sparse.gathered(row, index, entry, np.zeros(len(lower))), lower, upper)

    def sparse_rows(self, sparse: Sparse, lower: Floats, upper: Floats) -> None:
        """Add rows ``r <= A v + constant <= s``."""
        self._entries.append((sparse.row + self.height, sparse.index, sparse.entry))
        self._sides.append((lower - sparse.constant, upper - sparse.constant))
        self.height += len(lower)

    def combined(
        self, shift: Floats, terms: Sequence[tuple[Ints, Floats]], lower: Floats, upper: Floats
    ) -> Terms:
        """Return values ``shift + sum of terms`` within bounds, all ``(k,)``.

        Those of one variable at most are written down as they are; the others become variables
        with a row that defines them.
        """
        index = np.stack([np.where(a == 0, CONSTANT, i) for i, a in terms])
        scale = np.where(index == CONSTANT, 0.0, np.stack([a for _, a in terms]))
        place = (index != CONSTANT).argmax(0)[None]
        found = Terms(
            np.take_along_axis(index, place, 0)[0], np.take_along_axis(scale, place, 0)[0], shift
        )
        many = (index != CONSTANT).sum(0) > 1
        if many.any():
            new = self.variables(lower[many], upper[many])
            parts = [(i[many], a[many]) for i, a in zip(index, scale, strict=True)]
            self.rows([*parts, (new, np.full(new.shape, -1.0))], -shift[many], -shift[many])
            found = found.put(many, Terms.variables(new))
        return found

    def program(self, cost: Floats, offset: float) -> Program:
        """Return the program that minimises ``cost v + offset`` over all that was added."""
        lower, upper, integer = self.bounds()
        row, index, entry = _joined(self._entries, (np.int64, np.int64, np.float64))
        low, high = _joined(self._sides, (np.float64, np.float64))
        small = np.abs(entry) < _SMALL
        ends = entry[small] * lower[index[small]], entry[small] * upper[index[small]]
        # What is dropped goes over to the sides of its row, so that no point is lost.
        low = low - np.bincount(row[small], np.maximum(*ends), len(low))
        high = high - np.bincount(row[small], np.minimum(*ends), len(high))
        row, index, entry = row[~small], index[~small], entry[~small]
        order = np.lexsort((index, row))
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(low)))])
        return Program(
            cost,
            offset,
            starts.astype(np.int64),
            index[order],
            entry[order],
            low,
            high,
            lower,
            upper,
            integer,
        )

    def bounds(self) -> tuple[Floats, Floats, Flags]:
        """Return the bounds of all variables and which are integers."""
        lower, upper, integer = _joined(self._variables, (np.float64, np.float64, np.bool_))
        return lower, upper, integer


def _joined(parts: Sequence[tuple[np.ndarray, ...]], kinds: Sequence[type]) -> list[np.ndarray]:
    if not parts:
        return [np.zeros(0, kind) for kind in kinds]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]
