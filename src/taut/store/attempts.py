"""The journal's table ``attempts``: images that were tried more than once, and what came of it."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass

from taut.store.rows import double
from taut.verify.verdict import NO_PREDICTION, Status, Verdict

TABLE = """CREATE TABLE IF NOT EXISTS attempts (
    image INTEGER NOT NULL, number INTEGER NOT NULL, timeout, status TEXT NOT NULL,
    stage TEXT NOT NULL, reason TEXT NOT NULL, margin, seconds, parts INTEGER,
    PRIMARY KEY (image, number))"""


@dataclass(frozen=True)
class Attempts:
    """How often an image was tried, for how many seconds in all, and the most it was allowed.

    ``timeout`` is in seconds; infinite without limit.
    """

    count: int
    seconds: float
    timeout: float


def better(new: Verdict, held: Verdict) -> bool:
    """Whether a verdict says more than an unknown one: it decides, or its bound is larger."""
    if new.status != Status.UNKNOWN:
        return True
    left, right = ((v.predicted != NO_PREDICTION, v.margin) for v in (new, held))
    return left > right


def note(connection: sqlite3.Connection, verdict: Verdict, timeout: float) -> None:
    """Add an attempt that was allowed ``timeout`` seconds; within a transaction."""
    connection.execute(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            int(verdict.index),
            count(connection, verdict.index) + 1,
            None if math.isinf(timeout) else float(timeout),
            verdict.status.value,
            verdict.stage,
            verdict.reason,
            float(verdict.margin),
            float(verdict.seconds),
            int(verdict.parts),
        ),
    )


def count(connection: sqlite3.Connection, index: int) -> int:
    """Return how many attempts at an image are held."""
    query = "SELECT COUNT(*) FROM attempts WHERE image = ?"
    (found,) = connection.execute(query, (int(index),)).fetchone()
    return int(found)


def by_image(connection: sqlite3.Connection) -> dict[int, Attempts]:
    """Return what is held of every image."""
    rows = connection.execute(
        "SELECT image, COUNT(*), SUM(seconds), MAX(timeout), COUNT(timeout) FROM attempts "
        "GROUP BY image"
    )
    return {
        image: Attempts(number, double(seconds), double(most) if limited == number else math.inf)
        for image, number, seconds, most, limited in rows
    }
