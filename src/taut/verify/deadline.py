"""Work that ends when its time is up."""

from __future__ import annotations

import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from taut.graph.draw import exported, symbolic

_SOON = 0.02  # seconds until another try to interrupt


class OutOfTime(BaseException):
    """The time is up; no error, so that no handler of errors keeps it."""


class Clock:
    """Seconds left of a limit, from now on.

    Parameters
    ----------
    limit
        Seconds; ``math.inf`` for no limit.

    """

    def __init__(self, limit: float) -> None:
        self._began, self._limit = time.perf_counter(), limit

    @property
    def spent(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds left; negative when the time is over."""
        return self._limit - self.spent

    def check(self) -> None:
        """Raise :class:`OutOfTime` when no time is left."""
        if self.left <= 0:
            raise OutOfTime


@contextmanager
def interrupting(clock: Clock) -> Iterator[None]:
    """Raise :class:`OutOfTime` in the middle of the work when the clock has run out.

    By the process's interval timer, so in the main thread of a system that has one, while
    nobody else uses it; elsewhere nothing happens and only :meth:`Clock.check` ends the work.
    An operation that is under way is finished first, and so are an import, the drawing of a
    module, a finaliser and what the garbage collector calls. Where the exception is lost
    nevertheless, as in callbacks of weak references, nothing is printed and it comes again.
    """
    timer = getattr(signal, "setitimer", None)
    if (
        timer is None
        or math.isinf(clock.left)
        or threading.current_thread() is not threading.main_thread()
        or signal.getitimer(signal.ITIMER_REAL)[0]
    ):
        yield
        return

    armed = True

    def stop(number: int, frame: FrameType | None) -> None:
        if armed and _busy(frame):
            timer(signal.ITIMER_REAL, _SOON, 1.0)
        elif armed:
            raise OutOfTime

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not OutOfTime:
            told(unraisable)
        elif armed:
            timer(signal.ITIMER_REAL, _SOON, 1.0)

    before, told = signal.signal(signal.SIGALRM, stop), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        try:
            timer(signal.ITIMER_REAL, max(clock.left, 1e-3), 1.0)
            yield
        finally:
            armed = False
    finally:
        timer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = told


_WHOLE = (symbolic.__code__, exported.__code__)


def _busy(frame: FrameType | None) -> bool:
    """Whether an exception would leave something half done for good, or be lost.

    It would where somewhere up the stack a module is imported, or drawn, for which methods of
    all modules are replaced; or in a finaliser or a function that the garbage collector calls.
    """
    collecting = {getattr(call, "__code__", None) for call in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if (
            code.co_filename.startswith("<frozen importlib")
            or code.co_name == "__del__"
            or code in _WHOLE
            or code in collecting
        ):
            return True
        frame = frame.f_back
    return False
