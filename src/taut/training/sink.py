"""Where a run leaves its metrics and checkpoints; a run folder satisfies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Sink(Protocol):
    """Keeps what a run writes.

    The loop appends an epoch's metrics first and saves its checkpoint after; a run killed
    between the two finds one row too many when it resumes and takes it back.
    """

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; ``state`` holds live tensors, so copy it before returning."""
        ...

    def load_checkpoint(self) -> Mapping[str, Any] | None:
        """Return the last checkpoint, or None when there is none yet."""
        ...

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Keep one epoch's row of metrics."""
        ...

    def rewind_metrics(self, epoch: int) -> object:
        """Forget the rows of epochs after ``epoch``; whatever it returns is ignored."""
        ...
