"""What is shown while a network trains: one line per epoch, and where the epoch stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from taut.cli.display import Display, Pace, duration, percent, radius

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from taut.training import Settings, StepInfo

MINUTE = 60.0
"""Seconds between two plain lines within an epoch."""


class TrainingDisplay:
    """Hears of steps and epochs and shows them; a context manager around the training."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self._settings = settings
        self._display = Display(console, self._status, self._line, every=MINUTE)
        self._step: StepInfo | None = None
        self._pace: Pace | None = None
        self._columns: list[str] = []

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

    def step_done(self, info: StepInfo) -> None:
        """Take note of an optimiser step."""
        done = (info.epoch - 1) * info.steps + info.step
        if self._pace is None:
            # the first step is slower than the others, so the pace begins after it
            self._pace = Pace(info.epochs * info.steps, done, window=max(info.steps, 20))
        else:
            self._pace.note(done)
        self._step = info

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """Show the line of an epoch."""
        columns = ["total", *sorted(set(row["loss"]) - {"total"})]
        if columns != self._columns:  # a warm-up epoch has fewer parts than the others
            if not self._columns and row["validation"]:
                eps = radius(row["validation"]["eps"])
                self._display.log(
                    f"natural and certified: accuracy on validation images, eps {eps}"
                )
            self._columns = columns
            self._display.log(self._header(row))
        self._display.log(self._row(row))

    def _header(self, row: Mapping[str, Any]) -> str:
        cells = [
            f"{'epoch':>9}",
            f"{'eps':>8}",
            *(f"{name:>{_wide(name)}}" for name in self._names()),
        ]
        if row["validation"]:
            cells += [f"{'natural':>11}", f"{'certified':>10}"]
        return " ".join([*cells, f"{'time':>11}"])

    def _row(self, row: Mapping[str, Any]) -> str:
        place = f"{row['epoch']}/{self._settings.epochs}"
        losses = [
            f"{row['loss'][part]:>{_wide(name)}.4f}"
            for part, name in zip(self._columns, self._names(), strict=True)
        ]
        cells = [f"{place:>9}", f"{row['eps']:>8.4f}", *losses]
        held = row["validation"]
        if held:
            cells.append(f"{percent(held['natural_accuracy']):>11}")
            cells.append(f"{percent(held['certified_accuracy']):>10}")
        return " ".join([*cells, f"{duration(row['seconds']):>11}"])

    def _names(self) -> list[str]:
        """Return the headings of the loss columns: the total and its parts."""
        return ["loss", *(f"{part} loss" for part in self._columns[1:])]

    def _left(self) -> str:
        return "?" if self._pace is None else duration(self._pace.left)

    def _line(self) -> str:
        info = self._step
        if info is None:
            return "preparing"
        loss = info.loss.get("total", float("nan"))
        return (
            f"epoch {info.epoch}/{info.epochs}, step {info.step}/{info.steps}, eps {info.eps:.4f}, "
            f"loss {loss:.4f}, {self._left()} left"
        )

    def _status(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        info = self._step
        if info is None:
            return Text("preparing", style="dim")
        grid = Table.grid(padding=(0, 1))
        parts = ", ".join(f"{n} {v:.3f}" for n, v in info.loss.items() if n != "total")
        done = (info.epoch - 1) * info.steps + info.step
        grid.add_row(
            Text(f"epoch {info.epoch}/{info.epochs}", style="bold"),
            ProgressBar(total=info.epochs * info.steps, completed=done, width=24),
            Text(f"step {info.step}/{info.steps}"),
            Text(f"eps {info.eps:.4f}"),
            Text(f"loss {info.loss.get('total', float('nan')):.3f} ({parts})"),
            Text(f"{self._left()} left", style="cyan"),
        )
        return grid


def _wide(heading: str) -> int:
    return max(len(heading) + 1, 9)
