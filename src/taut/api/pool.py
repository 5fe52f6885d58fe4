"""What a pool of workers is: one interface for processes of this machine and for a cluster.

A pool takes items, hands batches of them to its workers and tells of every result. A worker that
dies takes nothing with it: what it told stays, what it had left is given out again, and an item
that loses its worker :data:`LOSSES` times is reported as :class:`Lost` instead of being tried for
ever.
"""

from __future__ import annotations

import pickle
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from taut.errors import TautError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

LOSSES = 3
"""Workers that an item may cost before it is given up."""


class Work(Protocol[ItemIn, ResultOut]):
    """What is done with the items; it is pickled and sent to every worker once."""

    def begin(self) -> Callable[[Sequence[ItemIn], Callable[[int, ResultOut], None]], None]:
        """Make ready inside a worker; return what takes a batch.

        That is called with some items and with a function to which it tells each item's
        place in the batch and its result, as soon as it is known.
        """
        ...


@dataclass(frozen=True)
class Lost:
    """In place of a result: :data:`LOSSES` workers died over this item."""


class Pool(Protocol):
    """Workers."""

    @property
    def streams(self) -> bool:
        """Whether results are told one by one; else when their batch is done."""
        ...

    def run(
        self, work: Work[Item, Result], items: Sequence[Item], size: int
    ) -> Generator[tuple[int, Result | Lost], None, None]:
        """Yield each item's position and result, in the order in which they come.

        Parameters
        ----------
        work
            What is done.
        items
            Looked at once when they are given out, and pickled; may be a lazy sequence.
        size
            Items of a batch, at most; towards the end batches get smaller.

        Raises
        ------
        TautError
            What was raised inside a worker, as it was.
        RunError
            When workers cannot be had.

        Notes
        -----
        Close the generator (:func:`contextlib.closing`) to end the workers early.
        """
        ...


class Plan:
    """Which items wait to be given out, by position.

    Parameters
    ----------
    count
        Number of items.
    size
        Of a batch, at most.
    workers
        How many share the items. A batch is at most half of what each has left to do, so that
        none waits long for the last.

    """

    def __init__(self, count: int, size: int, workers: int) -> None:
        self._fresh, self._again = deque(range(count)), deque[int]()
        self._size, self._workers = size, workers
        self._losses = Counter[int]()

    @property
    def waiting(self) -> int:
        """Number of items that nobody works on."""
        return len(self._fresh) + len(self._again)

    def take(self) -> list[int]:
        """Return the next batch; empty when nothing waits.

        An item whose worker died comes alone, so that it costs no other item's worker.
        """
        if self._again:
            return [self._again.popleft()]
        share = -(-len(self._fresh) // (2 * self._workers))
        return [self._fresh.popleft() for _ in range(min(share, self._size))]

    def lose(self, places: Iterable[int]) -> list[int]:
        """Let items whose worker died wait again; return those that are given up."""
        given_up = []
        for place in places:
            self._losses[place] += 1
            if self._losses[place] < LOSSES:
                self._again.append(place)
            else:
                given_up.append(place)
        return given_up


@dataclass(frozen=True)
class Failure:
    """An error inside a worker, on its way back."""

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return an error that can travel; one that cannot be pickled becomes its text."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever its class does in there, the text says what happened
            return cls(RuntimeError(f"{type(error).__name__}: {error}"), trace)
        return cls(error, trace)

    def throw(self) -> None:
        """Raise the error here; a bug keeps the worker's traceback as a note."""
        if not isinstance(self.error, TautError):
            self.error.add_note(f"In a worker:\n{self.trace}")
        raise self.error
