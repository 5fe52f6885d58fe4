"""Work for pools under test, a small network on small images, and the verdicts' comparison."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taut.api.fanout import Certifying, Image
from taut.api.results import Job
from taut.attacks import PGD
from taut.bounds.budget import allowance, free_bytes
from taut.data import ImageSet
from taut.errors import DataError
from taut.verify import Cascade, Verdict


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class OddError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True)
class Squares:
    """Squares numbers, and keeps in ``log`` whatever it begins with.

    It dies at the item ``once`` unless it is alone in its batch, and at ``deadly`` always.
    """

    log: Path
    once: int = -1
    deadly: int = -1

    def begin(self) -> Callable[[Sequence[int], Callable[[int, int], None]], None]:
        def step(items: Sequence[int], tell: Callable[[int, int], None]) -> None:
            for place, item in enumerate(items):
                with self.log.open("a") as file:
                    file.write(f"{item}\n")
                if item == self.deadly or (item == self.once and len(items) > 1):
                    die()
                tell(place, item * item)

        return step

    def begun(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]


@dataclass(frozen=True)
class Failing:
    """Raises the error of the name."""

    kind: str

    def begin(self) -> Callable[[Sequence[int], Callable[[int, int], None]], None]:
        def step(items: Sequence[int], tell: Callable[[int, int], None]) -> None:
            tell(0, os.getpid())
            if self.kind == "taut":
                raise DataError("image 3 is upside down; turn it")
            raise OddError("this", "that")

        return step


@dataclass(frozen=True)
class Looking:
    """Tells of the process it runs in, when ``workers`` of them have come together."""

    folder: Path
    workers: int

    def begin(self) -> Callable[[Sequence[int], Callable[[int, dict[str, Any]], None]], None]:
        def step(items: Sequence[int], tell: Callable[[int, dict[str, Any]], None]) -> None:
            cpu = torch.device("cpu")
            (self.folder / str(os.getpid())).touch()
            while len([*self.folder.iterdir()]) < self.workers:
                time.sleep(0.02)
            for place in range(len(items)):
                tell(
                    place,
                    {
                        "pid": os.getpid(),
                        "threads": torch.get_num_threads(),
                        "share": allowance(None, cpu) / free_bytes(cpu),
                        "given": allowance(1000, cpu),
                        "deaf": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
                        "main": threading.current_thread() is threading.main_thread(),
                    },
                )

        return step


@dataclass(frozen=True)
class Stuck:
    """Certifies; but the first task on one node of a cluster leaves a mark and sleeps."""

    work: Certifying
    node: str
    mark: Path

    def begin(self) -> Callable[[Sequence[Image], Callable[[int, Verdict], None]], None]:
        import ray

        inner = self.work.begin()

        def step(images: Sequence[Image], tell: Callable[[int, Verdict], None]) -> None:
            if ray.get_runtime_context().get_node_id() == self.node:
                self.mark.write_text(str([image.index for image in images]))
                time.sleep(600)
            inner(images, tell)

        return step


def small_job(count: int = 24, cascade: Cascade | None = None) -> Job:
    """A job whose images need every stage: some wrong, some broken, some proved by `branch`."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    ).eval()
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                module.weight *= 2
    pixels = torch.rand(count, 1, 4, 4)
    labels = model(pixels).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3
    if cascade is None:
        cascade = Cascade(
            stages=("clean", "attack", "ibp", "crown", "branch"),
            attack=PGD(steps=3, loss="margin", targets=2),
            batch_size=8,
        )
    images = ImageSet.from_tensors(pixels, labels, 3, name="small", split="test")
    architecture = {"name": "custom:small", "input_shape": [1, 4, 4], "classes": 3}
    return Job("certify", model, architecture, images, 0.05, cascade)


def decided(verdict: Verdict) -> tuple[object, ...]:
    """What has to be the same whoever certifies: all but time, and the last bits of margins."""
    point = verdict.counterexample
    return (
        verdict.index, verdict.label, verdict.predicted, verdict.status, verdict.stage,
        verdict.reason, point is not None,
    )  # fmt: skip


def limited(job: Job, timeout: float | None) -> Job:
    """The job with another time limit."""
    return replace(job, cascade=replace(job.cascade, timeout=timeout))
