"""``metrics.jsonl``: one JSON object per epoch and line, appended as the epochs end.

Format
------
ASCII text. Each line is one JSON object followed by one newline (byte 10); no
line holds a newline inside. ``epoch`` is an integer, at least 1, and grows from
line to line; everything else is up to the writer (see
:mod:`taut.store.values` for what a value may be, and for NaN and infinities).

A line counts only with its newline. A process killed while it writes leaves at
most one line without newline, at the end: readers ignore it and the next writer
cuts it off. Anything else that is not as above is damage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taut.errors import RunError
from taut.store.atomic import cannot_write, sync_folder
from taut.store.values import json_line, parse_object

ADVICE = "restore the file from a copy, or train again with another --out"


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append ``row`` and force it to the disk before returning.

    Raises
    ------
    RunError
        When ``row`` has no ``epoch``, when the epoch is not past the last one
        written, when a value is not plain, or when the disk refuses.

    """
    epoch = _epoch(row, "the metrics row")
    line = json_line(row, "the metrics row")
    is_new = not path.exists()
    try:
        with open(path, "ab+") as file:
            file.seek(0)
            lines, end = _complete_lines(file.read())
            last = _parse(path, lines)[-1]["epoch"] if lines else 0
            if epoch <= last:
                raise RunError(
                    f"{path} already holds epoch {last} and cannot take epoch {epoch}; "
                    "rewind the metrics to the checkpoint first"
                )
            file.truncate(end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return every complete row in order; none when there is no file yet.

    Raises
    ------
    RunError
        When a complete line is not a row, naming its number.

    """
    if not path.exists():
        return []
    try:
        lines, _ = _complete_lines(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; {ADVICE}") from error
    return _parse(path, lines)


def rewind_rows(path: Path, epoch: int) -> int:
    """Cut off a torn line and every row past ``epoch``; return how many rows went."""
    if not path.exists():
        return 0
    try:
        with open(path, "rb+") as file:
            lines, _ = _complete_lines(file.read())
            kept = len([row for row in _parse(path, lines) if row["epoch"] <= epoch])
            file.truncate(sum(len(line) + 1 for line in lines[:kept]))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
    return len(lines) - kept


def scalars(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a row by name, nested names joined with ``/``.

    ``{"loss": {"total": 0.5}}`` gives ``{"loss/total": 0.5}``. The outermost
    ``epoch`` (it is the step), booleans, strings, lists and ``None`` are left out.
    """
    result: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            result.update(scalars(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[prefix + key] = float(value)
    if not prefix:
        result.pop("epoch", None)
    return result


def _epoch(row: Mapping[str, object], where: str) -> int:
    epoch = row.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 1:
        raise RunError(f'{where} needs "epoch", an integer of at least 1; it has {epoch!r}')
    return epoch


def _complete_lines(data: bytes) -> tuple[list[bytes], int]:
    """Return the lines that have their newline, and where the last of them ends."""
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], end


def _parse(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_object(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"line {number} of {path} is damaged ({error}); {ADVICE}") from error
        epoch = _epoch(row, f"line {number} of {path}")
        if rows and epoch <= rows[-1]["epoch"]:
            raise RunError(f"line {number} of {path} is out of order; {ADVICE}")
        rows.append(row)
    return rows
