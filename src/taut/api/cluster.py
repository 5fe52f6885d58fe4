"""A pool of tasks on a Ray cluster that is there already.

The work is put into the cluster's object store once; a batch travels with its task. A task whose
node or process dies is given out again, by :class:`taut.api.pool.Plan` as everywhere, so that Ray
itself is told not to repeat it.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import re
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from taut._version import __version__
from taut.api.pool import Failure, Item, Lost, Plan, Result, Work
from taut.bounds.budget import sharing
from taut.errors import ConfigError, RunError, first_line

_PATIENCE = 10.0
"""Seconds without a result, after which the cluster is asked whether it has nodes left."""

_ADDRESS = re.compile(r"auto|(ray://)?[^/\s:]+:\d+")


@dataclass(frozen=True)
class RayCluster:
    """Tasks on the nodes of a Ray cluster, each in a process of its own.

    Attributes
    ----------
    address
        ``auto`` (the cluster of this machine), ``host:port`` (on a node of the cluster) or
        ``ray://host:port`` (from elsewhere).
    workers
        Tasks at a time; None for as many as the cluster has processors for.
    threads
        CPU threads of a task, for which it asks the cluster.
    gpus
        GPUs of a task.
    prepare
        Called first in every task.

    Raises
    ------
    ConfigError
        When Ray is not installed or the address has another form.

    """

    address: str
    workers: int | None = None
    threads: int = 1
    gpus: float = 0.0
    prepare: Callable[[], object] | None = None
    streams: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise ConfigError(
                f"a Ray address is auto, host:port or ray://host:port; got {self.address!r}"
            )
        _imported()

    def __str__(self) -> str:
        return f"tasks on the Ray cluster {self.address}"

    def run(
        self, work: Work[Item, Result], items: Sequence[Item], size: int
    ) -> Generator[tuple[int, Result | Lost], None, None]:
        """See :meth:`taut.api.pool.Pool.run`."""
        ray = _imported()
        with _connected(ray, self.address):
            plan = Plan(len(items), size, self._places(ray))
            task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_carry_out)
            order = _Order(__version__, self.threads, self._neighbours(ray), self.prepare)
            shared = ray.put(pickle.dumps(work))
            given: dict[Any, list[int]] = {}
            while plan.waiting or given:
                while plan.waiting and len(given) < self._places(ray):
                    places = plan.take()
                    batch = pickle.dumps([items[place] for place in places])
                    given[task.remote(order, shared, batch)] = places
                done, _ = ray.wait(list(given), timeout=_PATIENCE)
                if not done:
                    self._places(ray)
                for reference in done:
                    places = given.pop(reference)
                    found = _received(ray, reference)
                    if found is None:
                        yield from ((place, Lost()) for place in plan.lose(places))
                    else:
                        yield from zip(places, found, strict=True)

    def _places(self, ray: Any) -> int:
        """Return how many tasks run at a time on the nodes that are there now."""
        held = ray.cluster_resources()
        room = int(held.get("CPU", 0) // self.threads)
        if self.gpus:
            room = min(room, int(held.get("GPU", 0) / self.gpus))
        if not room:
            kind = f"{self.threads} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            raise RunError(
                f"the Ray cluster {self.address} has no node left with {kind} for a task; add "
                "nodes, or ask for fewer --threads"
            )
        return room if self.workers is None else min(room, self.workers)

    def _neighbours(self, ray: Any) -> int:
        """Return how many tasks may share the memory of a node."""
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        room = max(1, int(max(nodes, default=1) // self.threads))
        return room if self.workers is None else min(room, self.workers)


@dataclass(frozen=True)
class _Order:
    version: str
    threads: int
    sharers: int
    prepare: Callable[[], object] | None


def _carry_out(order: _Order, work: bytes, batch: bytes) -> bytes:
    """Do a batch on a node; return the pickled results in the batch's order, or a failure."""
    try:
        if order.version != __version__:
            raise RunError(
                f"a node of the cluster has taut {__version__}, this is {order.version}; install "
                "the same one everywhere"
            )
        if order.prepare is not None:
            order.prepare()
        torch.set_num_threads(order.threads)
        items, found = pickle.loads(batch), dict[int, Any]()
        with sharing(order.sharers):
            pickle.loads(work).begin()(items, found.__setitem__)
        return pickle.dumps([found[place] for place in range(len(items))])
    except Exception as error:
        return pickle.dumps(Failure.of(error))


def _received(ray: Any, reference: Any) -> list[Any] | None:
    """Return a batch's results, None where its task died."""
    try:
        found = pickle.loads(ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # before _carry_out itself could begin
        raise RunError(
            f"a node of the Ray cluster cannot run taut ({first_line(error)}); install the same "
            "taut and PyTorch on every node"
        ) from error
    except ray.exceptions.RayError:
        return None
    if isinstance(found, Failure):
        found.throw()
    results: list[Any] = found
    return results


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            "a cluster needs the package ray; install it with pip install 'taut[ray]'"
        ) from error


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected already."""
    if ray.is_initialized():
        yield
        return
    _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError as error:
        raise ConfigError(
            f"{address} needs more of Ray ({first_line(error)}); install it with "
            "pip install 'ray[client]'"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise _unreachable(address, error) from error
    try:
        # Ray's own threads print there what becomes of nodes, in the middle of a command's JSON.
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise :class:`RunError` where nobody listens; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> RunError:
    return RunError(
        f"there is no Ray cluster at {address} to be reached from here ({first_line(error)}); "
        "check the address, and that the cluster runs"
    )
