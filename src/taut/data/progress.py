"""Show a download: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Meter:
    """Progress of one file, in the form that pooch's downloader drives.

    pooch sets ``total`` (bytes) and calls ``update`` per chunk; when done it calls
    ``reset``, ``update(total)`` and ``close``. Use as a context manager.
    """

    def __init__(self, label: str, console: Console) -> None:
        self.label = label
        self.console = console
        self.total = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        from rich import progress

        if self.console.is_terminal:
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=None)
        else:
            self.console.print(self.label, markup=False, highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, count: int) -> None:
        """Add ``count`` bytes."""
        if self._bar is not None:
            self._bar.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        """Start again from zero."""
        if self._bar is not None:
            self._bar.reset(self._task)

    def close(self) -> None:
        """Do nothing: the context manager takes the bar down."""
