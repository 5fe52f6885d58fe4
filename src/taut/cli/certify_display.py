"""What is shown while images are certified: counts per verdict and stage, speed, time left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from taut.cli.display import Display, Pace, duration
from taut.verify import Status, Verdict
from taut.verify.cascade import MOST

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from taut.api.results import Job

EVERY = 5.0
"""Seconds between two plain lines."""


class CertifyDisplay:
    """Hears of verdicts and stages and shows them; a context manager around the work.

    ``now`` is what it says is going on before it hears of a stage.
    """

    def __init__(self, console: Console, job: Job, now: str = "loading") -> None:
        self._job = job
        self._total = len(job.images)
        self._by_status = dict.fromkeys(Status, 0)
        self._by_stage = dict.fromkeys(job.cascade.stages, 0)
        self._now = now
        self._pace = Pace(self._total, window=_window(job))
        self._display = Display(console, self._status, self._line, every=EVERY)

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def start(self, known: Sequence[Verdict]) -> None:
        """Take note of the verdicts that an earlier call left."""
        for verdict in known:
            self._count(verdict)
        if known:
            self._display.log(f"{len(known)} of {self._total} images have a verdict already")
        self._pace = Pace(self._total, len(known), _window(self._job))

    def settled(self, verdict: Verdict) -> None:
        """Take note of a verdict."""
        self._count(verdict)
        self._pace.note(self._done)

    def stage(self, name: str, count: int) -> None:
        """Take note that a stage begins on ``count`` images of a batch."""
        self._now = f"{name} on {count} image{'' if count == 1 else 's'}"

    @property
    def _done(self) -> int:
        return sum(self._by_status.values())

    def _count(self, verdict: Verdict) -> None:
        self._by_status[verdict.status] += 1
        self._by_stage[verdict.stage] += 1

    def _words(self) -> str:
        return ", ".join(f"{count} {status.value}" for status, count in self._by_status.items())

    def _speed(self) -> str:
        rate = self._pace.rate
        return f"{rate:.3g} images/s, {duration(self._pace.left)} left" if rate else "no rate yet"

    def _line(self) -> str:
        return (
            f"{self._done}/{self._total} images: {self._words()}; {self._speed()}; now {self._now}"
        )

    def _status(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(f"{self._done}/{self._total} images", style="bold"),
            ProgressBar(total=self._total, completed=self._done, width=24),
            Text(self._words()),
            Text(self._speed(), style="cyan"),
        )
        stages = ", ".join(f"{stage} {count}" for stage, count in self._by_stage.items())
        return Group(bar, Text(f"decided by: {stages}; now {self._now}", style="dim"))


def _window(job: Job) -> int:
    """Return over how many verdicts the pace is taken: those of some batches."""
    return max(4 * (job.cascade.batch_size or MOST), 50)
