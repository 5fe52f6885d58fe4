"""A benchmark of instances: its list, and the file that results are added to one by one."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taut.api.deciding import decide_files
from taut.errors import DataError, RunError, TautError
from taut.store.atomic import write_atomic
from taut.store.values import pretty, read_object
from taut.verify.instance import Procedure
from taut.verify.outcome import Outcome

COLUMNS = ("onnx", "vnnlib", "answer", "seconds", "stage", "reason")

ERROR = "error"
"""The answer of an instance that could not be begun; its reason is the error."""


@dataclass(frozen=True)
class Instance:
    """A line of ``instances.csv``: paths as they stand there, and seconds (None without)."""

    network: str
    property: str
    timeout: float | None


@dataclass(frozen=True)
class Row:
    """A line of the results; the fields are :data:`COLUMNS`."""

    network: str
    property: str
    answer: str
    seconds: float
    stage: str
    reason: str


def read_instances(path: Path) -> list[Instance]:
    """Return the instances of a file with lines ``onnx,vnnlib`` or ``onnx,vnnlib,seconds``.

    Raises
    ------
    DataError
        When the file is missing, empty or a line has another form.

    """
    if not path.is_file():
        raise DataError(f"there is no list of instances {path}; check the path")
    found = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of instances: {error}") from error
    for number, line in enumerate(_lines(text, path), start=1):
        try:
            network, property_file, *rest = (word.strip() for word in line)
            timeout = float(rest[0]) if rest else None
        except ValueError:
            raise DataError(
                f"{path}, line {number}: expected network,property,seconds; got {','.join(line)!r}"
            ) from None
        if len(rest) > 1 or (timeout is not None and not 0 < timeout < math.inf):
            raise DataError(f"{path}, line {number}: {','.join(line)!r} has no positive seconds")
        if not network or not property_file:
            raise DataError(
                f"{path}, line {number}: {','.join(line)!r} names no network or property"
            )
        found.append(Instance(network, property_file, timeout))
    if not found:
        raise DataError(f"{path} lists no instance")
    return found


def _lines(text: str, path: Path) -> Iterator[list[str]]:
    try:
        yield from (line for line in csv.reader(io.StringIO(text), strict=True) if line)
    except csv.Error as error:
        raise DataError(f"{path} is no list of comma-separated lines: {error}") from error


def run_instances(
    listed: Path,
    out: Path,
    procedure: Procedure,
    *,
    timeout: float | None = None,
    on_row: Callable[[int, Row], None] | None = None,
) -> list[Row]:
    """Decide the instances of a list that are not in the results yet; return all rows, in order.

    Every row is on the disk before the next instance begins. An instance that cannot be begun
    (a file is missing, an operator has no rule) gets the answer ``error`` and does not stop the
    others. A last line that was cut off is dropped and its instance done again.

    Parameters
    ----------
    listed
        The list; paths in it count from its folder, ``.gz`` may be added to the files.
    out
        The file of results, made or continued.
    procedure
        Stages, attack and seed. Its time is for instances that name none.
    timeout
        Seconds for every instance instead.
    on_row
        Called with the position and row of each instance, also of those that were there.

    Raises
    ------
    DataError
        When the list is missing or malformed.
    RunError
        When ``out`` cannot be written, is there and is no such file, or was begun in another
        folder or with other settings, which are kept beside it in ``OUT.settings.json``.

    """
    instances = read_instances(listed)
    try:
        known = _begin(out)
        _same_settings(out, bool(known), _settings(listed, procedure))
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error}; name another with --out") from error
    rows = []
    for place, instance in enumerate(instances):
        row = known.get((instance.network, instance.property))
        if row is None:
            row = _decided(listed.parent, instance, procedure, timeout)
            known[instance.network, instance.property] = row
            _append(out, row)
        rows.append(row)
        if on_row is not None:
            on_row(place, row)
    return rows


def _settings(listed: Path, procedure: Procedure) -> dict[str, Any]:
    """Return what the answers of a list depend on besides the files it names."""
    return {
        "folder": str(listed.resolve().parent),
        "stages": list(procedure.stages),
        "attack": repr(procedure.attack),
        "seed": procedure.seed,
    }


def _same_settings(out: Path, begun: bool, settings: dict[str, Any]) -> None:
    """Keep the settings beside the results; refuse to go on with others."""
    place = out.with_name(out.name + ".settings.json")
    if begun:
        held = read_object(place, f"name another file than {out} with --out")
        changed = sorted(key for key in settings if held.get(key) != settings[key])
        if changed:
            raise RunError(
                f"{out} was begun with other settings ({', '.join(changed)}); name another file "
                "with --out, or remove it"
            )
    write_atomic(place, pretty(settings, "the settings"))


def _decided(folder: Path, instance: Instance, procedure: Procedure, timeout: float | None) -> Row:
    seconds = timeout or instance.timeout or procedure.timeout
    try:
        found: Outcome = decide_files(
            folder / instance.network,
            folder / instance.property,
            replace(procedure, timeout=seconds),
        )
    except TautError as error:
        reason = " ".join(str(error).split())
        return Row(instance.network, instance.property, ERROR, 0.0, "", reason)
    return Row(
        instance.network,
        instance.property,
        found.answer.value,
        round(found.seconds, 3),
        found.stage,
        found.reason,
    )


def _begin(out: Path) -> dict[tuple[str, str], Row]:
    """Return the rows that are there; make the file with its header where it is not."""
    out.parent.mkdir(parents=True, exist_ok=True)
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
            found[network, property_file] = row
    except (ValueError, csv.Error) as error:
        raise RunError(f"{out} is no file of results ({error}); name another with --out") from error
    if whole != content:
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return found


def _append(out: Path, row: Row) -> None:
    line = _line((row.network, row.property, row.answer, str(row.seconds), row.stage, row.reason))
    with out.open("ab") as file:
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _line(words: tuple[str, ...]) -> str:
    into = io.StringIO(newline="")
    csv.writer(into, lineterminator="\n").writerow(words)
    return into.getvalue()
