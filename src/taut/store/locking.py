"""One writer at a time: a lock of the operating system's, which dies with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from taut.errors import RunError
from taut.store.atomic import cannot_write


def acquire(place: Path, written: Path) -> FileLock:
    """Take the lock that the file ``place`` stands for, at once.

    Raises
    ------
    RunError
        When somebody else writes to ``written``, which the lock protects, or ``place`` cannot be
        made.

    """
    lock = FileLock(str(place), thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(
            f"another process is writing to {written}; wait until it ends, or choose another --out"
        ) from error
    except OSError as error:
        raise cannot_write(place, error) from error
    return lock


@contextmanager
def alone(written: Path) -> Iterator[None]:
    """Be the one process that writes to a file, by ``.NAME.lock`` beside it; see :func:`acquire`.

    Folders above it are made.
    """
    place = written.with_name(f".{written.name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(written, error) from error
    lock = acquire(place, written)
    try:
        yield
    finally:
        lock.release()
