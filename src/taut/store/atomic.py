"""The one way a whole file of a run folder is written: replaced at once, or not at all."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from taut.errors import RunError

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Replace the file at ``path`` by ``data``, so that no moment shows half of it.

    The bytes go to ``.<name>.<8 hex digits>.tmp`` in the same folder and are
    forced to the disk; then the file is renamed over ``path`` and the folder
    is forced to the disk. A process killed on the way leaves the previous file
    as it was and at most one ``.tmp`` file, which :func:`remove_leftovers`
    deletes.

    Raises
    ------
    RunError
        When the disk is full or the folder cannot be written.

    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a file that the operating system refused to write."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}; "
        "free disk space or mend the permissions, then run the command again"
    )


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk, so that a rename outlives a power loss."""
    if os.name == "nt":  # Windows opens no folder; its renames are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_leftover(name: str) -> bool:
    """Whether ``name`` is that of a temporary file of :func:`write_atomic`."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files a killed process left; call it with the folder's lock held."""
    for entry in folder.iterdir():
        if is_leftover(entry.name):
            entry.unlink(missing_ok=True)
