"""Read a file whole, unpacked, and know that it is the published one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BufferedReader
from pathlib import Path

from taut.data.describe import File
from taut.errors import DataError

_CHUNK = 1 << 20
_Stream = BufferedReader | gzip.GzipFile


@contextmanager
def _unpacked(path: Path) -> Iterator[_Stream]:
    """Open a file for reading, through gzip when it starts like one (whatever its name)."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream
            else:
                yield raw
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _fill(stream: _Stream, buffer: bytearray) -> int:
    """Read into ``buffer`` until it is full or the stream ends; return the bytes read."""
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        try:
            # read1 hands over what it has before a cut gzip stream raises EOFError.
            chunk = stream.read1(min(_CHUNK, len(buffer) - filled))
        except EOFError:
            break
        if not chunk:
            break
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled


def read_content(path: Path, size: int) -> bytearray:
    """Return the ``size`` bytes of a file, unpacked when it is packed with gzip.

    Never holds more than ``size`` bytes of content, whatever the file unpacks to.

    Raises
    ------
    DataError
        When the file cannot be read, is no whole gzip file, or holds fewer or more bytes.

    """
    buffer = bytearray(size)
    with _unpacked(path) as stream:
        found = _fill(stream, buffer)
        if found < size:
            raise DataError(f"{path} is truncated: expected {size} bytes, found {found}")
        try:
            beyond = stream.read(1)  # for gzip this also checks the CRC at the end
        except EOFError as error:
            raise DataError(
                f"{path} is truncated: all {size} bytes of content are there, but the gzip file "
                "ends before its checksum"
            ) from error
        if beyond:
            raise DataError(f"{path} holds more than the expected {size} bytes")
    return buffer


def check_sum(content: bytearray, file: File, path: Path) -> None:
    """Raise :class:`DataError` unless ``content`` is that of the published file."""
    found = sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the published {file.name}: "
            f"expected SHA-256 {file.sha256[:16]}..., found {found[:16]}..."
        )


def fault(path: Path, file: File) -> str | None:
    """Say what is wrong with a file on disk, or None when it is the published one."""
    try:
        check_sum(read_content(path, file.size), file, path)
    except DataError as error:
        return str(error)
    return None
