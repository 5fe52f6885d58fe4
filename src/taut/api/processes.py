"""A pool of processes on this machine.

``concurrent.futures`` is not used: there a worker that dies breaks the whole pool, nobody learns
which task it had, and results come only when a task is done. Here every worker has a pipe of its
own. So it is known whose results are missing, and a process that is killed while it writes takes
no lock with it and no other's results.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any, ClassVar

import torch

from taut.api.pool import Failure, Item, Lost, Plan, Result, Work
from taut.bounds.budget import sharing
from taut.errors import RunError

_STARTS = 3
"""Workers in a row that may end before they begin."""

_PR_SET_PDEATHSIG = 1  # from sys/prctl.h

_Pipe = connection.Connection


@dataclass(frozen=True)
class Processes:
    """Processes that are started for a call and end with it.

    They share the free memory and the threads evenly. Ctrl-C reaches the parent alone, which ends
    them; when the parent is killed, they end too.

    Attributes
    ----------
    workers
        How many.
    threads
        CPU threads of all of them together; each has at least one.
    prepare
        Called first in every worker.

    """

    workers: int
    threads: int
    prepare: Callable[[], object] | None = None
    streams: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{self.workers} processes"

    def run(
        self, work: Work[Item, Result], items: Sequence[Item], size: int
    ) -> Generator[tuple[int, Result | Lost], None, None]:
        """See :meth:`taut.api.pool.Pool.run`."""
        count = min(self.workers, len(items))
        orders = pickle.dumps(
            _Orders(work, max(1, self.threads // max(1, count)), count, self.prepare)
        )
        crew: list[_Worker] = []
        try:
            yield from _lead(crew, Plan(len(items), size, count), count, orders, items)
        finally:
            for worker in crew:
                worker.end()


def _lead(
    crew: list[_Worker], plan: Plan, count: int, orders: bytes, items: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Keep ``count`` workers busy until nothing is left."""
    failures = 0
    while plan.waiting or any(worker.busy for worker in crew):
        while plan.waiting and len(crew) < count:
            crew.append(_Worker())
        for worker in crew:
            if worker.began and not worker.busy:
                worker.give(plan.take(), items)
        for worker in _heard(crew):
            try:
                message = pickle.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):  # it died; half a message is none
                crew.remove(worker)
                failures = 0 if worker.began else failures + 1
                _check_starts(failures, worker.end())
                yield from ((place, Lost()) for place in plan.lose(worker.places))
                continue
            if isinstance(message, Failure):
                message.throw()
            elif message == "hello":
                worker.send(orders)
            elif message == "done":
                worker.began, worker.busy = True, False
            else:
                at, result = message
                yield worker.settled(at), result


def _heard(crew: Sequence[_Worker]) -> list[_Worker]:
    ready = connection.wait([worker.pipe for worker in crew])
    return [worker for worker in crew if worker.pipe in ready]


def _check_starts(failures: int, code: int | None) -> None:
    if failures >= _STARTS:
        raise RunError(
            f"{failures} workers in a row ended before they began (exit code {code}); "
            "use fewer --workers, or leave the option out"
        )


class _Worker:
    """A process as its parent sees it.

    ``places`` are the positions of the items it has and has not told of; it is ``busy`` until
    it says that the batch is done, which an error may come before.
    """

    def __init__(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawning.Pipe()
        self._process: SpawnProcess = spawning.Process(target=_serve, args=(theirs,), daemon=True)
        with _deaf():
            self._process.start()
        theirs.close()  # or the end of the process would not be heard
        self.began, self.busy = False, False
        self.places: list[int] = []
        self._batch: list[int] = []

    def give(self, places: list[int], items: Sequence[Any]) -> None:
        """Send a batch."""
        if places:
            self.busy, self.places, self._batch = True, list(places), list(places)
            self.send(pickle.dumps([items[place] for place in places]))

    def settled(self, at: int) -> int:
        """Return the position of the item at a place of the batch, which now has its result."""
        place = self._batch[at]
        self.places.remove(place)
        return place

    def send(self, message: bytes) -> None:
        """Send a message; that a process is dead is heard where its answers are read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(message)

    def end(self) -> int | None:
        """End the process, which has nothing to save; return its exit code."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return self._process.exitcode


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that never hear Ctrl-C, which a terminal sends to all of a command's."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, eq=False)
class _Orders:
    work: Work[Any, Any]
    threads: int
    sharers: int
    prepare: Callable[[], object] | None


class _Gone(BaseException):
    """The parent does not listen any more; no error, so that no handler of errors keeps it."""


def _serve(pipe: _Pipe) -> None:
    """Take batches until the parent is gone; the life of a worker."""
    _end_with_parent()

    def tell(message: object) -> None:
        content = pickle.dumps(message)
        try:
            pipe.send_bytes(content)
        except OSError:
            raise _Gone from None

    def hear() -> Any:
        try:
            content = pipe.recv_bytes()
        except (EOFError, OSError):
            raise _Gone from None
        return pickle.loads(content)

    try:
        tell("hello")
        try:
            _obey(hear(), tell, hear)
        except Exception as error:
            tell(Failure.of(error))
    except _Gone:
        return


def _obey(orders: _Orders, tell: Callable[[object], None], hear: Callable[[], Any]) -> None:
    if orders.prepare is not None:
        orders.prepare()
    torch.set_num_threads(orders.threads)
    step = orders.work.begin()
    with sharing(orders.sharers):
        while True:
            tell("done")
            step(hear(), lambda at, found: tell((at, found)))


def _end_with_parent() -> None:
    """Let this process end when its parent does, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":  # at once, also in the middle of a solver that lets nobody in
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
