"""Work that does not fit into memory is done in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from taut.errors import out_of_memory

Result = TypeVar("Result")


def in_halves(
    work: Callable[[list[int]], list[Result]], rows: list[int], lost: Result
) -> list[Result]:
    """Return ``work(rows)``, one result per row, halving the rows while memory runs out.

    A single row that does not fit gets ``lost``. Any other exception propagates. ``work`` may
    be repeated on rows it did not finish, so it must leave nothing half done.
    """
    try:
        return work(rows)
    except Exception as error:
        if not out_of_memory(error):
            raise
    # Outside the handler the failed attempt's frames, and the tensors they hold, are freed.
    if len(rows) == 1:
        return [lost]
    half = len(rows) // 2
    return in_halves(work, rows[:half], lost) + in_halves(work, rows[half:], lost)
