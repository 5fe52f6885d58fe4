"""Small nets, small data and an in-memory sink for the tests of training."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taut.data import ImageSet
from taut.region import Box
from taut.training import Batch, Progress, TrainingAttack


def blobs(count: int = 96, classes: int = 3, size: int = 4, seed: int = 0) -> ImageSet:
    """Noisy images of ``classes`` patterns, learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, size, size, generator=generator)
    labels = torch.arange(count) % classes
    noise = 0.3 * torch.rand(count, 1, size, size, generator=generator)
    pixels = (0.7 * patterns[labels] + noise).mul(255).to(torch.uint8)
    return ImageSet.from_tensors(pixels, labels, classes, name="blobs")


def tiny_net(seed: int = 1, size: int = 4, classes: int = 3, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(1, 3, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(3))
    layers += [nn.ReLU(), nn.Flatten(), nn.Linear(3 * size * size, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, classes))


class Fixed(TrainingAttack):
    """An attack that finds the same points whatever the network."""

    def points(self, batch: Batch, box: Box, progress: Progress) -> Tensor:
        return box.lower + 0.9 * (box.upper - box.lower)


class MemorySink:
    """Keeps copies, and the order of the calls."""

    def __init__(self) -> None:
        self.state: Any = None
        self.rows: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def save_checkpoint(self, state: Any) -> None:
        self.calls.append("checkpoint")
        self.state = copy.deepcopy(dict(state))

    def load_checkpoint(self) -> Any:
        return copy.deepcopy(self.state)

    def append_metrics(self, row: Any) -> None:
        self.calls.append("metrics")
        self.rows.append(dict(row))

    def rewind_metrics(self, epoch: int) -> None:
        self.calls.append(f"rewind {epoch}")
        self.rows = [row for row in self.rows if row["epoch"] <= epoch]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(worker: Path, *arguments: str) -> int:
    """Run one of the programs beside the tests; it may end well or by SIGKILL."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(worker), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode
