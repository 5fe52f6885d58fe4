"""``journal.sqlite``: the verdicts, one committed row per image.

Format
------
An SQLite database with four tables (an auditor can open it with ``sqlite3``)::

    meta(key TEXT PRIMARY KEY, value TEXT)        what was certified
    verdicts(image INTEGER PRIMARY KEY,           position in the split
             label INTEGER, predicted INTEGER,
             status TEXT,                         'verified', 'falsified', 'unknown'
             stage TEXT, reason TEXT,
             margin, seconds,                     8-byte doubles, NULL for NaN
             shape TEXT, counterexample BLOB,     both NULL without counterexample
             parts INTEGER)                       sub-problems bounded; NULL in older rows
    attempts(image INTEGER, number INTEGER,       images tried again: every attempt, from 1
             timeout, status TEXT, stage TEXT,    seconds allowed, NULL without limit
             reason TEXT, margin, seconds, parts INTEGER)
    progress(image INTEGER PRIMARY KEY,           undecided images only:
             stage TEXT, margin)                  the last stage passed, its bound

``meta`` holds ``format`` (the layout's version, 1) and what the caller says was
certified: at least ``weights`` (SHA-256, see :func:`taut.store.hashing.hash_weights`),
``data``, ``split``, ``eps``, ``cascade`` (the stages' configuration) and ``seed``.
Values are JSON with sorted keys; ``eps`` is the string ``float.hex`` gives, so
that an auditor sees every bit of it. ``shape`` is a JSON list; ``counterexample``
holds the pixels as little-endian float32, row-major.

Journals of earlier versions lack ``parts`` and ``attempts``; both are added when such a one
is opened for writing.

A row that contradicts itself is refused, when it is written and when it is read:
``verified`` needs a finite margin above zero, a predicted class equal to the label,
no reason and no counterexample; ``falsified`` needs a counterexample, or a
predicted class other than the label.

Every verdict is a transaction of its own. The database is in WAL mode with
``synchronous=NORMAL``: what was committed survives the death of the process at
any moment; a power loss can take the last rows back but not damage the rest.
Where the file system cannot do WAL, SQLite's rollback journal is used with
``synchronous=FULL``. Readers do not block the writer, nor it them; while the
database is open it may be accompanied by ``-wal`` and ``-shm`` files, which
belong to it.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from taut.errors import RunError
from taut.store import attempts
from taut.store.rows import AGAIN, COLUMNS, decode, double, encode, flaw
from taut.store.values import canonical, from_json
from taut.verify.verdict import Status, Verdict

JOURNAL_FORMAT = 1
META_REQUIRED = ("weights", "data", "split", "eps", "cascade", "seed")

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    # margin and seconds are untyped: a REAL column would store -0.0 as 0.
    """CREATE TABLE verdicts (
        image INTEGER PRIMARY KEY, label INTEGER NOT NULL, predicted INTEGER NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('verified', 'falsified', 'unknown')),
        stage TEXT NOT NULL, reason TEXT NOT NULL, margin, seconds,
        shape TEXT, counterexample BLOB, parts INTEGER,
        CHECK ((shape IS NULL) = (counterexample IS NULL)))""",
    "CREATE TABLE progress (image INTEGER PRIMARY KEY, stage TEXT NOT NULL, margin)",
)


class Journal:
    """The verdicts of one certification, image by image.

    Parameters
    ----------
    path
        The database; made when it does not exist and ``meta`` is given.
    meta
        What is being certified (see the module's page). Opens the journal for
        writing; one that exists must have been written for the same. Without
        it the journal is opened for reading only.

    Raises
    ------
    RunError
        When ``meta`` differs from the journal's, naming the field; when there is
        no journal to read; when the database is damaged or of a newer layout.

    """

    def __init__(self, path: str | Path, meta: Mapping[str, object] | None = None) -> None:
        self._path = Path(path)
        self._writes = meta is not None
        wanted = None if meta is None else _encode_meta(meta)
        if wanted is None and not self._path.is_file():
            raise RunError(f"there is no journal {self._path}; certify first")
        with self._guard():
            self._connection = _connect(self._path, write=self._writes)
        try:
            with self._guard():
                self._prepare(wanted)
        except BaseException:
            self._connection.close()
            raise

    @property
    def meta(self) -> dict[str, Any]:
        """What was certified, ``eps`` as a float (without ``format``)."""
        return {key: _decode(key, text) for key, text in self._meta().items() if key != "format"}

    def record(self, verdict: Verdict) -> None:
        """Commit ``verdict``; its image then has no progress any more.

        The first verdict of an image stands: recording it again changes nothing.

        Raises
        ------
        RunError
            When the image has a verdict of another status, the verdict contradicts
            itself (see the module's page), or the disk refuses.

        """
        row = _checked(verdict)
        with self._guard(), self._transaction():
            self._insert(row)

    def record_attempt(self, verdict: Verdict, timeout: float | None) -> Verdict:
        """Commit what came of an image within ``timeout`` seconds; return its standing verdict.

        Unlike in :meth:`record`, an image that is unknown may have been tried before: what it
        is now replaces what it was when it is decided, or its bound is better. Every attempt is
        kept, see :meth:`tried`.

        Raises
        ------
        RunError
            As :meth:`record`; an image that is decided is not tried again.

        """
        row = _checked(verdict)
        with self._guard(), self._transaction():
            held = self._verdict(verdict.index)
            if held is None or held.status != Status.UNKNOWN:
                self._insert(row)
            else:
                if not attempts.count(self._connection, verdict.index):
                    attempts.note(self._connection, held, self._limit())
                if attempts.better(verdict, held):
                    self._connection.execute("DELETE FROM verdicts WHERE image = ?", row[:1])
                    self._insert(row)
            attempts.note(self._connection, verdict, math.inf if timeout is None else timeout)
            standing = self._verdict(verdict.index)
        assert standing is not None
        return standing

    def tried(self) -> dict[int, attempts.Attempts]:
        """Return what is known of the images that :meth:`record_attempt` was told of."""
        if "attempts" not in self._tables():
            return {}
        with self._guard():
            return attempts.by_image(self._connection)

    def done(self) -> set[int]:
        """Return the indices of the images that have a verdict."""
        return {row[0] for row in self._select("SELECT image FROM verdicts")}

    def verdicts(self) -> list[Verdict]:
        """Return every verdict, by index."""
        rows = self._select(f"SELECT {self._columns()} FROM verdicts ORDER BY image")
        return [decode(self._path, row) for row in rows]

    def record_progress(self, index: int, stage: str, margin: float) -> None:
        """Commit that an undecided image has passed ``stage`` with the lower bound ``margin``.

        Replaces the image's earlier progress; an image with a verdict takes none.
        """
        with self._guard(), self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO progress (image, stage, margin) SELECT ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM verdicts WHERE image = ?)",
                (int(index), str(stage), float(margin), int(index)),
            )

    def progress(self) -> dict[int, tuple[str, float]]:
        """Return, for each undecided image that passed one, its last stage and bound."""
        rows = self._select("SELECT image, stage, margin FROM progress ORDER BY image")
        return {image: (stage, double(margin)) for image, stage, margin in rows}

    def close(self) -> None:
        """Close the database; everything recorded is in it already."""
        with self._guard():
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _insert(self, row: tuple[object, ...]) -> None:
        """Insert the verdict of an image that has none; within a transaction."""
        execute = self._connection.execute
        found = execute("SELECT status FROM verdicts WHERE image = ?", row[:1]).fetchone()
        if found is not None and found[0] != row[3]:
            raise RunError(
                f"{self._path} has image {row[0]} as {found[0]}, and now it came out {row[3]}; "
                "keep the journal, certify with another --out and compare"
            )
        if found is None:
            marks = ", ".join("?" * len(row))
            execute(f"INSERT INTO verdicts ({', '.join(COLUMNS)}) VALUES ({marks})", row)
            execute("DELETE FROM progress WHERE image = ?", row[:1])

    def _verdict(self, index: int) -> Verdict | None:
        rows = self._connection.execute(
            f"SELECT {self._columns()} FROM verdicts WHERE image = ?", (int(index),)
        ).fetchall()
        return decode(self._path, rows[0]) if rows else None

    def _limit(self) -> float:
        """Return the timeout that the certification began with; infinite without one."""
        cascade = self.meta["cascade"]
        found = cascade.get("timeout") if isinstance(cascade, Mapping) else None
        return math.inf if found is None else float(found)

    def _columns(self) -> str:
        """Return the columns of a verdict; an older journal, open for reading, lacks the last."""
        held = {row[1] for row in self._select("PRAGMA table_info(verdicts)")}
        return ", ".join(name if name in held else f"NULL AS {name}" for name in COLUMNS)

    def _select(self, query: str) -> list[Any]:
        with self._guard():
            return self._connection.execute(query).fetchall()

    def _meta(self) -> dict[str, str]:
        return dict(self._select("SELECT key, value FROM meta"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self._writes:
            raise RunError(f"{self._path} is open for reading; open it with its meta to write")
        # IMMEDIATE: take the write lock before reading, so that the answer still holds.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite has rolled back itself on a full disk
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a closed journal, or another thread: the caller's bug
        except sqlite3.DatabaseError as error:
            raise _explain(self._path, error) from error

    def _prepare(self, wanted: Mapping[str, str] | None) -> None:
        """Make the tables of a new journal, or check that an old one is whole and the same."""
        if wanted is not None:
            (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            level = "NORMAL" if mode == "wal" else "FULL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            with self._transaction():
                if not self._tables():  # new, or its maker was killed before the first commit
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
                    self._connection.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())
        if not self._tables():
            raise RunError(f"{self._path} holds no verdict yet; certify first")
        if not {"meta", "verdicts", "progress"} <= self._tables():
            raise RunError(f"{self._path} is no journal of taut; choose another --out")
        (report,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if report != "ok":
            reason = " ".join(str(report).split())
            raise RunError(f"{self._path} is damaged ({reason}); {AGAIN.format(self._path)}")
        self._check_meta(wanted)
        if wanted is not None:
            with self._transaction():
                if "NULL AS parts" in self._columns():
                    self._connection.execute("ALTER TABLE verdicts ADD COLUMN parts INTEGER")
                self._connection.execute(attempts.TABLE)

    def _tables(self) -> set[str]:
        return {name for (name,) in self._select("SELECT name FROM sqlite_master")}

    def _check_meta(self, wanted: Mapping[str, str] | None) -> None:
        found = self._meta()
        layout = found.get("format", "0")
        if not layout.isdecimal() or int(layout) > JOURNAL_FORMAT:
            raise RunError(
                f"{self._path} has layout {layout} and this taut reads up to {JOURNAL_FORMAT}; "
                "upgrade taut"
            )
        if wanted is None:
            return
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise RunError(
                    f"{self._path} was written for {key} {_show(key, found)}, "
                    f"not {_show(key, wanted)}; {AGAIN.format(self._path)}"
                )


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    if write:
        return sqlite3.connect(path, isolation_level=None, timeout=30.0)
    uri = path.resolve().as_uri() + "?mode=ro"
    if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        # An archived journal: without the right to make a -shm file SQLite
        # opens a WAL database only when told that nobody writes to it.
        uri += "&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0)


def _explain(path: Path, error: sqlite3.DatabaseError) -> RunError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return RunError(f"{path} is locked by another process; wait until that one ends")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return RunError(f"{path} is damaged ({error}); {AGAIN.format(path)}")
    return RunError(f"cannot use {path} ({error}); free disk space or mend the permissions")


def _encode_meta(meta: Mapping[str, object]) -> dict[str, str]:
    for key in META_REQUIRED:
        if key not in meta:
            raise RunError(f"a journal's meta needs {', '.join(META_REQUIRED)}; it lacks {key}")
    eps = meta["eps"]
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise RunError(f"a journal's eps is a finite number of at least 0, not {eps!r}")
    plain = {**meta, "eps": float(eps).hex()}
    encoded = {key: canonical(value, f"meta.{key}") for key, value in plain.items()}
    return {**encoded, "format": str(JOURNAL_FORMAT)}


def _decode(key: str, text: str) -> Any:
    value = from_json(json.loads(text))
    return float.fromhex(value) if key == "eps" else value


def _show(key: str, texts: Mapping[str, str]) -> str:
    return repr(_decode(key, texts[key])) if key in texts else "(nothing)"


def _checked(verdict: Verdict) -> tuple[object, ...]:
    """Return the row of a verdict that does not contradict itself."""
    found = flaw(verdict)
    if found is not None:
        raise RunError(
            f"the verdict of image {verdict.index} contradicts itself ({found}) "
            "and is not recorded; certify the image again"
        )
    return encode(verdict)
