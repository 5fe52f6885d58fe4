"""Peak memory of a piece of work, measured from outside in a process of its own.

The child sets up, runs once to warm up and waits; then its resident memory is read, the kernel's
high-water mark is reset, and it goes to work. What the mark says afterwards, less what was there
before, is the memory that the work took. Linux only.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from taut.errors import TautError

MB = 2**20
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)

Work = Callable[[], Mapping[str, Any]]
SetUp = Callable[..., Work]


@dataclass(frozen=True)
class Measured:
    """What a child did: its answers, seconds of CPU, and bytes above those after set-up."""

    answers: Mapping[str, Any]
    seconds: float
    peak: int
    failure: str


def measure(
    set_up: SetUp, *arguments: object, most: int | None = None, keep: bool = True
) -> Measured:
    """Run ``set_up(*arguments)`` in a fresh process, then what it returns, and measure that.

    Parameters
    ----------
    set_up
        A function of a module; it also warms up.
    most
        Bytes of address space the child may take, so that a failure stays its own.
    keep
        Let the C library keep freed pages, as the command line of taut does.

    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, set_up, arguments, most, keep))
    process.start()
    there.close()
    try:
        failure = _answer(here)
        if failure:
            return Measured({}, 0.0, 0, failure)
        before = _status(process.pid, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text(_RESET_PEAK)
        here.send("go")
        failure = _answer(here)
        peak = _status(process.pid, "VmHWM") - before if process.is_alive() else 0
        answers, seconds = here.recv() if not failure else ({}, 0.0)
        return Measured(answers, seconds, peak, failure)
    finally:
        here.close()
        process.join()


def _answer(here: Connection) -> str:
    """Return what went wrong in the child, if anything."""
    try:
        return str(here.recv())
    except EOFError:
        return "the process was killed: most likely out of memory"


def _status(pid: int | None, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def _serve(
    there: Connection, set_up: SetUp, arguments: tuple[object, ...], most: int | None, keep: bool
) -> None:
    import torch

    from taut.cli.allocator import keep_pages

    torch.set_num_threads(1)
    if keep:
        keep_pages()
    if most is not None:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        work = set_up(*arguments)
        there.send("")
        there.recv()
        start = time.process_time()
        answers = work()
        seconds = time.process_time() - start
        there.send("")
        there.send((dict(answers), seconds))
        there.recv()  # stays until the other side has read its memory and hung up
    except EOFError:
        return
    except Exception as error:
        there.send(_told(error))
        if not isinstance(error, MemoryError | RuntimeError | TautError):
            traceback.print_exc()


def _told(error: Exception) -> str:
    """Return what went wrong in a line."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "out of memory"
    return f"{type(error).__name__}: {lines[-1]}"[:160]
