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

SHARES = {
    "natural_accuracy": "natural",
    "attacked_accuracy": "attacked",
    "certified_accuracy": "certified",
    "unstable_share": "unstable",
}
"""Columns of what validation found, with their headings."""

TIME = 11
"""Width of the column of durations."""

ROOMY = 120
"""Columns from which the live line names the parts of the loss."""


class TrainingDisplay:
    """Hears of steps and epochs and shows them; a context manager around the training."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self._settings = settings
        self._display = Display(console, self._status, self._line, every=MINUTE)
        self._step: StepInfo | None = None
        self._pace: Pace | None = None
        self._parts: list[str] = []
        self._shares: list[str] = []
        self._width = console.width

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
        held = row["validation"]
        parts = ["total", *sorted(set(row["loss"]) - {"total"})]
        shares = [key for key in SHARES if key in held] if held else self._shares
        if (parts, shares) != (self._parts, self._shares):  # a warm-up epoch has fewer parts
            if held and not self._shares:
                eps = radius(held["eps"])
                self._display.log(f"shares on validation images, eps {eps}; {self._legend(held)}")
            self._parts, self._shares = parts, shares
            self._display.log(self._header())
        self._display.log(self._row(row))

    def _legend(self, held: Mapping[str, Any]) -> str:
        """Return what the columns of shares stand for."""
        said = "natural, attacked, certified: accuracies"
        if "attacked_accuracy" not in held:
            said = "natural, certified: accuracies"
        return f"{said}; unstable: ReLUs" if "unstable_share" in held else said

    def _header(self) -> str:
        cells = [f"{'epoch':>9}", f"{'eps':>8}", *(f"{n:>{_wide(n)}}" for n in self._names())]
        cells += [f"{SHARES[key]:>{len(SHARES[key]) + 1}}" for key in self._shares]
        return " ".join([*cells, f"{'time':>{TIME}}"])

    def _row(self, row: Mapping[str, Any]) -> str:
        place = f"{row['epoch']}/{self._settings.epochs}"
        names = self._names()
        losses = [
            f"{row['loss'][part]:>{_wide(name)}.4f}"
            for part, name in zip(self._parts, names, strict=False)
        ]
        cells = [f"{place:>9}", f"{row['eps']:>8.4f}", *losses]
        for key in self._shares:  # none of an epoch that is not evaluated
            cells.append(f"{percent(row['validation'].get(key)):>{len(SHARES[key]) + 1}}")
        return " ".join([*cells, f"{duration(row['seconds']):>{TIME}}"])

    def _names(self) -> list[str]:
        """Return the headings of the loss columns: the total, and the parts there is room for."""
        taken = 9 + 9 + 1 + _wide("loss") + 1 + TIME
        taken += sum(2 + len(SHARES[key]) for key in self._shares)
        names = ["loss"]
        for part in self._parts[1:]:
            name = f"{part} loss"
            taken += 1 + _wide(name)
            if taken > self._width:
                break
            names.append(name)
        return names

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
        roomy = self._width >= ROOMY
        named = [f"{name} {value:.3f}" for name, value in info.loss.items() if name != "total"]
        parts = f" ({', '.join(named)})" if roomy and named else ""
        done = (info.epoch - 1) * info.steps + info.step
        grid.add_row(
            Text(f"epoch {info.epoch}/{info.epochs}", style="bold"),
            ProgressBar(total=info.epochs * info.steps, completed=done, width=24 if roomy else 12),
            Text(f"step {info.step}/{info.steps}"),
            Text(f"eps {info.eps:.4f}"),
            Text(f"loss {info.loss.get('total', float('nan')):.3f}{parts}"),
            Text(f"{self._left()} left", style="cyan"),
        )
        return grid


def _wide(heading: str) -> int:
    return max(len(heading) + 1, 9)
