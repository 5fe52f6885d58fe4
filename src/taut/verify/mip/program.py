"""Mixed-integer linear programs as matrices, and what linear duality says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Program:
    r"""Minimise a linear form over a bounded polyhedron, some variables being integers.

    .. math:: \min_v \; c v + d \quad\text{where}\quad
        r \le A v \le s, \quad l \le v \le u, \quad v_i \in \mathbb{Z} \;\text{for}\; i \in I

    Attributes
    ----------
    cost, offset
        c, shape ``(n,)``, and d.
    starts, columns, entries
        A by rows: row i has the entries ``starts[i]`` to ``starts[i + 1]``, each column at most
        once.
    row_lower, row_upper
        r and s, shape ``(m,)``; infinite where a side is free.
    lower, upper
        l and u, shape ``(n,)``, finite.
    integer
        Which variables are integers, ``(n,)``.
    """

    cost: Floats
    offset: float
    starts: Ints
    columns: Ints
    entries: Floats
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integer: Flags

    @property
    def is_linear(self) -> bool:
        """Whether no variable has to be an integer."""
        return not bool(self.integer.any())

    def relaxed(self) -> Program:
        """Return the linear program without the integers: its minimum is never larger."""
        return replace(self, integer=np.zeros_like(self.integer))

    def minimising(self, cost: Floats, offset: float) -> Program:
        """Return the program over the same points with another form to minimise."""
        return replace(self, cost=cost, offset=offset)

    def value(self, point: Floats) -> float:
        """Return ``c v + d`` at a point ``(n,)``."""
        return float(self.cost @ point) + self.offset

    def violation(self, point: Floats) -> float:
        """Return by how much a point ``(n,)`` breaks a row, a bound or an integer, at most."""
        rows = self.rows(point)
        whole = np.where(self.integer, np.abs(point - np.round(point)), 0.0)
        gaps = (
            self.row_lower - rows,
            rows - self.row_upper,
            self.lower - point,
            point - self.upper,
            whole,
        )
        return max((float(gap.max()) for gap in gaps if len(gap)), default=0.0)

    def rows(self, point: Floats) -> Floats:
        """Return ``A v`` of a point ``(n,)``, shape ``(m,)``."""
        shares = self.entries * point[self.columns]
        found = np.bincount(self.row_of_entries(), shares, len(self.row_lower))
        return np.asarray(found, dtype=np.float64)

    def row_of_entries(self) -> Ints:
        """Return the row that each entry of A stands in."""
        return np.repeat(np.arange(len(self.row_lower)), np.diff(self.starts))

    def variables(self) -> Iterator[tuple[float, float, float, bool]]:
        """Yield l, u, c and whether it is an integer, variable by variable."""
        yield from zip(
            self.lower.tolist(),
            self.upper.tolist(),
            self.cost.tolist(),
            self.integer.tolist(),
            strict=True,
        )

    def constraints(self) -> Iterator[tuple[float, float, list[int], list[float]]]:
        """Yield r, s, columns and entries, row by row."""
        ends = zip(self.row_lower.tolist(), self.row_upper.tolist(), strict=True)
        for row, (low, up) in enumerate(ends):
            part = slice(int(self.starts[row]), int(self.starts[row + 1]))
            yield low, up, self.columns[part].tolist(), self.entries[part].tolist()

    def scale(self) -> float:
        r"""Return how large the form can come, :math:`|d| + \sum_i |c_i| \max(|l_i|, |u_i|)`."""
        reach = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return abs(self.offset) + float(np.abs(self.cost) @ reach)

    def dual_bound(self, duals: Floats) -> float:
        r"""Return what multipliers y of the rows prove of the minimum; any y proves something.

        .. math:: d + \sum_i \min(y_i r_i, y_i s_i) + \sum_j \min_{l_j \le v_j \le u_j}
            (c - y A)_j v_j

        Multipliers of a side that is free count as zero. An estimate of the rounding of the sums
        is taken off, so that a solver's tolerances play no part in the result.
        Source: Neumaier and Shcherbina 2004.

        Parameters
        ----------
        duals
            y, shape ``(m,)``.
        """
        side = np.where(duals > 0, self.row_lower, self.row_upper)
        used = np.isfinite(duals) & np.isfinite(side) & (duals != 0)
        y, side = np.where(used, duals, 0.0), np.where(used, side, 0.0)
        shares = self.entries * y[self.row_of_entries()]
        count = len(self.cost)
        reduced = self.cost - np.bincount(self.columns, shares, count)
        sizes = np.abs(self.cost) + np.bincount(self.columns, np.abs(shares), count)
        found = float(y @ side) + float(
            np.minimum(reduced * self.lower, reduced * self.upper).sum()
        )
        reach = np.maximum(np.abs(self.lower), np.abs(self.upper))
        noise = float(np.abs(y) @ np.abs(side)) + float(sizes @ reach) + abs(self.offset)
        # numpy adds in pairs: the error grows with the logarithm of the number of terms; the
        # entries of one column are added one by one, and there are few of those.
        terms = 8 + np.log2(1 + count + len(y)) + float(np.bincount(self.columns).max(initial=0))
        return float(found + self.offset - _ROUNDING * terms * noise)
