"""Images that were left unknown, tried again with more time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taut.api.fanout import LOST
from taut.errors import RunError
from taut.store import Journal, RunFolder
from taut.store.attempts import Attempts
from taut.store.config import difference
from taut.verify import Status, Verdict

ANYWAY = (LOST, "memory")
"""Reasons that the next attempt need not meet again, whatever its time."""


def worth(had: float, would: float, reason: str) -> bool:
    """Whether what is open is tried again: for more seconds, or as time was not the reason."""
    return would > had or reason in ANYWAY


def under_held_limit(folder: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's description with the time limit that its folder began with.

    Raises
    ------
    RunError
        When there is no certification to go on with.

    """
    if not (folder / "config.json").is_file():
        raise RunError(f"there is nothing to try again in {folder}; certify without --retry first")
    return _with_limit(described, _limit(RunFolder.open(folder).recipe))


def limit_of(journal: Journal) -> float:
    """Return the seconds an image had at first; infinite without limit."""
    return _seconds(_limit(journal.meta))


def again(
    known: Mapping[int, Verdict], tried: Mapping[int, Attempts], first: float, timeout: float | None
) -> list[int]:
    """Return which images to try again, with ``timeout`` seconds each.

    Those that are unknown and never had as much time, so that a call that was killed does not
    repeat what it had done; and those that failed for lack of memory, or whose worker died.

    Parameters
    ----------
    known
        The verdicts, by image.
    tried
        What the journal holds of earlier attempts.
    first
        Seconds that images had which were tried once.
    timeout
        Seconds they would have now, None for no limit.

    """
    found = []
    for index, verdict in known.items():
        most = tried[index].timeout if index in tried else first
        open_ = verdict.status == Status.UNKNOWN
        if open_ and worth(most, _seconds(timeout), verdict.reason):
            found.append(index)
    return found


def figures(journal: Journal, images: int) -> dict[str, Any]:
    """Return what the summary says of attempts after the first; empty where there was none."""
    tried = [held for index, held in journal.tried().items() if index < images]
    if not tried:
        return {}
    return {
        "retried": {
            "images": sum(held.count > 1 for held in tried),
            "attempts": sum(held.count for held in tried),
            "seconds": sum(held.seconds for held in tried),
        }
    }


def hint(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return a hint at ``--retry`` where the time limit is all that differs."""
    if "cascade" not in held or "cascade" not in wanted:
        return ""
    if difference(held, _with_limit(wanted, _limit(held)), "settings") is not None:
        return ""
    return "try its unknown images again under the new --timeout with --retry unknown, "


def _with_limit(described: Mapping[str, Any], limit: float | None) -> dict[str, Any]:
    return {**described, "cascade": {**described["cascade"], "timeout": limit}}


def _limit(described: Mapping[str, Any]) -> float | None:
    found = described["cascade"].get("timeout")
    return None if found is None else float(found)


def _seconds(limit: float | None) -> float:
    return math.inf if limit is None else limit
