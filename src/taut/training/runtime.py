"""Device, processes, threads and the default generator of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from taut.errors import ConfigError
from taut.training.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def device_type(settings: Settings) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises
    ------
    ConfigError
        When a GPU is asked for and there is none, or fewer than asked for.

    """
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError('train.device is "cuda" but PyTorch finds no GPU; use "cpu" or "auto"')
    if settings.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices is {settings.devices} but PyTorch finds {torch.cuda.device_count()} "
            "GPUs; use fewer"
        )
    return "cuda"


def launch(settings: Settings) -> Fabric:
    """Return the process's Fabric, after starting the other processes where there are any."""
    from lightning_fabric import Fabric  # a second of imports that nobody else pays

    fabric = Fabric(
        accelerator=device_type(settings),
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        precision=settings.precision,
    )
    fabric.launch()
    return fabric


@contextmanager
def environment(settings: Settings) -> Iterator[Fabric]:
    """Give the run's Fabric; restore threads and PyTorch's default generators after it.

    Raises
    ------
    ConfigError
        When the machine lacks the devices asked for.

    """
    threads = torch.get_num_threads()
    try:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        fabric = launch(settings)
        device = fabric.device
        with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
            yield fabric
    finally:
        torch.set_num_threads(threads)
