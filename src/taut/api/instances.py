"""A benchmark of instances: its list, and the file that results are added to one by one."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taut.api import answers
from taut.api.answers import ERROR, Key, Row
from taut.api.deciding import decide_files
from taut.api.fanout import LOST
from taut.api.pool import Lost, Pool
from taut.api.retrying import worth
from taut.errors import DataError, RunError, TautError
from taut.store.atomic import write_atomic
from taut.store.locking import alone
from taut.store.values import pretty, read_object
from taut.verify.instance import Procedure
from taut.verify.outcome import Answer, Outcome


@dataclass(frozen=True)
class Instance:
    """A line of ``instances.csv``: paths as they stand there, and seconds (None without)."""

    network: str
    property: str
    timeout: float | None

    def key(self) -> Key:
        """What its line of the results begins with."""
        return self.network, self.property


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


@dataclass(frozen=True)
class Deciding:
    """What workers do with instances; see :class:`taut.api.pool.Work`.

    Attributes
    ----------
    folder
        From which the paths of the list count.
    procedure
        Stages, attack and seed. Its time is for instances that name none.
    timeout
        Seconds for every instance instead.

    """

    folder: Path
    procedure: Procedure
    timeout: float | None

    def begin(self) -> Callable[[Sequence[Instance], Callable[[int, Row], None]], None]:
        """See :class:`taut.api.pool.Work`."""

        def step(instances: Sequence[Instance], tell: Callable[[int, Row], None]) -> None:
            for place, instance in enumerate(instances):
                tell(place, self.row(instance))

        return step

    def seconds(self, instance: Instance) -> float:
        """Return the time of an instance; infinite without limit."""
        return self.timeout or instance.timeout or self.procedure.timeout or math.inf

    def row(self, instance: Instance) -> Row:
        """Decide an instance."""
        limit = self.seconds(instance)
        timed = replace(self.procedure, timeout=None if math.isinf(limit) else limit)
        network, property_file = self.folder / instance.network, self.folder / instance.property
        try:
            found: Outcome = decide_files(network, property_file, timed)
        except TautError as error:
            reason = " ".join(str(error).split())
            return Row(*instance.key(), ERROR, 0.0, "", reason)
        seconds = round(found.seconds, 3)
        return Row(*instance.key(), found.answer.value, seconds, found.stage, found.reason)


def run_instances(
    listed: Path,
    out: Path,
    procedure: Procedure,
    *,
    timeout: float | None = None,
    pool: Pool | None = None,
    retry: bool = False,
    on_row: Callable[[int, Row], None] | None = None,
) -> list[Row]:
    """Decide the instances of a list that are not in the results yet; return all rows, in order.

    Every row is on the disk before the next is begun, or told of by a pool. An instance that
    cannot be begun (a file is missing, an operator has no rule) gets the answer ``error`` and does
    not stop the others; one over which three workers died is ``unknown`` for the reason
    ``worker``. A last line that was cut off is dropped and its instance done again.

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
    pool
        Workers that share the instances; this process alone writes the file.
    retry
        Decide those whose answer is ``unknown``, ``timeout`` or ``error`` again. An answer that
        decides replaces the row; every such attempt stands in ``OUT.attempts.csv``, with its
        time limit, and one of no more time is not repeated.
    on_row
        Called with the position and row of each instance, also of those that were there.

    Raises
    ------
    DataError
        When the list is missing or malformed.
    RunError
        When ``out`` cannot be written, another process writes to it, it is there and is no such
        file, or was begun in another folder or with other settings, which are kept beside it in
        ``OUT.settings.json``.

    """
    instances = read_instances(listed)
    work = Deciding(listed.resolve().parent, procedure, timeout)
    with alone(out):
        return _answered(instances, work, out, _settings(listed, procedure), pool, retry, on_row)


def _answered(
    instances: list[Instance],
    work: Deciding,
    out: Path,
    settings: dict[str, Any],
    pool: Pool | None,
    retry: bool,
    on_row: Callable[[int, Row], None] | None,
) -> list[Row]:
    """Decide what is not in the file yet, or is decided again; return all rows."""
    try:
        known = answers.begin(out)
        _same_settings(out, bool(known), settings)
        redone = _redone(out, known, instances, work) if retry else set[Key]()
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error}; name another with --out") from error
    places = {instance.key(): place for place, instance in reversed([*enumerate(instances)])}

    def settle(instance: Instance, row: Row) -> None:
        if instance.key() not in redone:
            known[instance.key()] = row
            answers.append(out, row)
        else:
            answers.note(out, row, work.seconds(instance))
            if answers.better(row, known[instance.key()]):
                known[instance.key()] = row
                answers.rewrite(out, known.values())
        if on_row is not None:
            on_row(places[instance.key()], known[instance.key()])

    todo = []
    for place, instance in enumerate(instances):
        if instance.key() in known and instance.key() not in redone:
            if on_row is not None:
                on_row(place, known[instance.key()])
        elif pool is not None:
            todo += [instance] if places[instance.key()] == place else []
        elif places[instance.key()] == place:
            settle(instance, work.row(instance))
    if pool is not None:
        _share_out(pool, work, todo, settle)
    return [known[instance.key()] for instance in instances]


def _share_out(
    pool: Pool, work: Deciding, todo: list[Instance], settle: Callable[[Instance, Row], None]
) -> None:
    with closing(pool.run(work, todo, 1)) as found:
        for place, row in found:
            instance = todo[place]
            if isinstance(row, Lost):
                row = Row(*instance.key(), Answer.UNKNOWN.value, 0.0, "", LOST)
            settle(instance, row)


def _redone(
    out: Path, known: dict[Key, Row], instances: list[Instance], work: Deciding
) -> set[Key]:
    """Return which rows are decided again: open ones without an attempt of as much time."""
    tried, found = answers.attempts(out), set[Key]()
    for instance in instances:
        key = instance.key()
        row = known.get(key)
        if row is None or row.answer not in answers.OPEN:
            continue
        most = tried.get(key, 0.0)
        if row.answer == ERROR or worth(most, work.seconds(instance), row.reason):
            found.add(key)
    return found


def _settings(listed: Path, procedure: Procedure) -> dict[str, Any]:
    """Return what the answers of a list depend on besides the files it names."""
    return {
        "folder": str(listed.resolve().parent),
        "stages": list(procedure.stages),
        "attack": repr(procedure.attack),
        "seed": procedure.seed,
        "mip": None if procedure.mip is None else repr(procedure.mip),
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
