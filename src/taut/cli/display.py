"""Live progress: a display on a terminal, plain lines elsewhere, nothing for short work."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

DELAY = 2.0
"""Seconds of work before anything is shown."""


class Display:
    """Shows the state of some work while it runs, on standard error.

    On a terminal ``status`` is drawn four times a second and wiped at the end; elsewhere
    ``line`` is printed every ``every`` seconds. Lines given to :meth:`log` stay. Nothing at
    all appears before ``delay`` seconds, so short work is silent.

    Use it as a context manager around the work.
    """

    def __init__(
        self,
        console: Console,
        status: Callable[[], RenderableType],
        line: Callable[[], str],
        *,
        every: float,
        delay: float = DELAY,
    ) -> None:
        self._console, self._status, self._line = console, status, line
        self._every, self._delay = every, delay
        self._held: list[str] = []
        self._visible = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._live: Live | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def log(self, text: str) -> None:
        """Print a line that stays; held back while nothing is shown yet."""
        with self._lock:
            if self._visible:
                self._print(text)
            else:
                self._held.append(text)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _work(self) -> None:
        if self._over.wait(self._delay):
            return
        with self._lock:
            if self._console.is_interactive:  # a terminal that can move its cursor
                self._live = self._start()
            for text in self._held:
                self._print(text)
            self._visible = True
        while self._live is None:
            self._print(self._line())
            if self._over.wait(self._every):
                return

    def _start(self) -> Live:
        from rich.live import Live

        live = Live(
            console=self._console,
            get_renderable=self._status,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        return live

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Pace:
    """How fast something goes and how long it still takes, from its latest part.

    ``window`` is the number of notes looked back on.
    """

    def __init__(self, total: int, done: int = 0, window: int = 200) -> None:
        self._total = total
        self._notes: deque[tuple[float, int]] = deque([(time.perf_counter(), done)], window)

    def note(self, done: int) -> None:
        """Take note that ``done`` of all are done."""
        self._notes.append((time.perf_counter(), done))

    @property
    def rate(self) -> float:
        """Units a second; 0 before the first note."""
        (began, first), (ended, last) = self._notes[0], self._notes[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    @property
    def left(self) -> float:
        """Seconds left, infinite while the rate is unknown."""
        remaining = self._total - self._notes[-1][1]
        return remaining / self.rate if self.rate > 0 else math.inf


def duration(seconds: float) -> str:
    """Return a time in the units a person would use, such as ``3 min 20 s``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(value: float | None) -> str:
    """Return a fraction as percent with one decimal, ``-`` for none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def radius(eps: float) -> str:
    """Return eps and, where it is a short multiple of 1/255, that too."""
    levels = eps * 255
    text = f"{eps:.4g}"
    return f"{text} ({levels:.4g}/255)" if abs(levels - round(levels, 1)) < 1e-9 else text
