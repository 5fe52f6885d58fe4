"""``events.out.tfevents.*``: the metrics once more, for TensorBoard.

Format
------
TensorBoard's own: records of serialised ``Event`` messages, each with its length
and checksums. A file is named ``events.out.tfevents.<10 digits>.taut``; the
digits are the second it was opened in, raised where needed so that the names of
one folder sort by age. Each process that trains into the folder writes one file.
A file that continues a run starts with a ``SessionLog.START`` at the first epoch
it will write: TensorBoard then drops what older files hold from that epoch on,
so that no point shows twice.

``metrics.jsonl`` is the record; nothing of taut reads these files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from taut.errors import RunError
from taut.store.atomic import cannot_write

_PREFIX = "events.out.tfevents."


class EventLog:
    """One event file, open for writing.

    ``tensorboardX`` is imported here, not before. Its record writer is used
    directly, without its queue and thread: an epoch's points are on the disk
    when :meth:`add` returns.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open a new file in ``folder``; older points from ``first_step`` on are withdrawn."""
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        stamps = [_stamp(entry) for entry in folder.glob(_PREFIX + "*")]
        stamp = max(int(time.time()), *(older + 1 for older in stamps), 0)
        self._path = folder / f"{_PREFIX}{stamp:010d}.taut"
        try:
            self._records = RecordWriter(str(self._path))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._event(file_version="brain.Event:2")
        if stamps:
            self._event(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per name at ``step`` (single precision, as TensorBoard keeps it)."""
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._event(step=step, summary=Summary(value=points))
        try:
            self._records.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _event(self, **fields: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _stamp(path: Path) -> int:
    digits = path.name.removeprefix(_PREFIX).split(".")[0]
    if not digits.isdecimal():
        raise RunError(f"{path} is no event file of taut; move it out of the run folder")
    return int(digits)
