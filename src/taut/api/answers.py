"""The file of a benchmark's results: comma-separated lines, one for each instance."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from taut.errors import RunError
from taut.store.atomic import write_atomic

COLUMNS = ("onnx", "vnnlib", "answer", "seconds", "stage", "reason")

ERROR = "error"
"""The answer of an instance that could not be begun; its reason is the error."""

OPEN = ("unknown", "timeout", ERROR)
"""Answers that another attempt may better."""

Key = tuple[str, str]
"""An instance in a file: its network and its property, as they stand in the list."""


@dataclass(frozen=True)
class Row:
    """A line of the results; the fields are :data:`COLUMNS`."""

    network: str
    property: str
    answer: str
    seconds: float
    stage: str
    reason: str

    def key(self) -> Key:
        """Which instance it is about."""
        return self.network, self.property


def better(new: Row, held: Row) -> bool:
    """Whether a row says more than one whose answer is open."""
    return new.answer not in OPEN or (held.answer == ERROR and new.answer != ERROR)


def begin(out: Path) -> dict[Key, Row]:
    """Return the rows that are there; make the file with its header where it is not.

    A last line that was cut off is dropped.

    Raises
    ------
    RunError
        When the file holds something else.

    """
    content = out.read_bytes() if out.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole and _line(COLUMNS).startswith(content.decode("utf-8", "replace")):
        out.write_text(_line(COLUMNS), encoding="utf-8", newline="")
        return {}
    found = {}
    try:
        header, *lines = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""), strict=True)
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(header)}")
        for network, property_file, answer, seconds, stage, reason in lines:
            row = Row(network, property_file, answer, float(seconds), stage, reason)
            found[row.key()] = row
    except (ValueError, csv.Error) as error:
        raise RunError(f"{out} is no file of results ({error}); name another with --out") from error
    if whole != content:
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return found


def append(out: Path, row: Row) -> None:
    """Add a row; it is on the disk on return."""
    _append(out, map(str, astuple(row)))


def rewrite(out: Path, rows: Iterable[Row]) -> None:
    """Replace all rows, in one step."""
    lines = [COLUMNS, *(tuple(map(str, astuple(row))) for row in rows)]
    write_atomic(out, "".join(map(_line, lines)).encode("utf-8"))


def attempts(out: Path) -> dict[Key, float]:
    """Return for every instance that was tried again the most seconds it was allowed."""
    place, found = _attempts(out), dict[Key, float]()
    if not place.is_file():
        return found
    for words in csv.reader(io.StringIO(place.read_text(encoding="utf-8"), newline="")):
        if len(words) == len(COLUMNS) + 1:  # the last line may be cut off
            key = (words[0], words[1])
            found[key] = max(float(words[-1]), found.get(key, 0.0))
    return found


def note(out: Path, row: Row, timeout: float) -> None:
    """Keep what another attempt of ``timeout`` seconds came to, in ``OUT.attempts.csv``."""
    _append(_attempts(out), (*map(str, astuple(row)), str(timeout)))


def _attempts(out: Path) -> Path:
    return out.with_name(f"{out.name}.attempts.csv")


def _append(path: Path, words: Iterable[str]) -> None:
    with path.open("ab") as file:
        file.write(_line(tuple(words)).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _line(words: tuple[str, ...]) -> str:
    into = io.StringIO(newline="")
    csv.writer(into, lineterminator="\n").writerow(words)
    return into.getvalue()
