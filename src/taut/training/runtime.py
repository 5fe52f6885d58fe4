"""Device, processes, threads and the default generator of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

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
        When a GPU is asked for, by device or precision, and there is none, or fewer than asked
        for.

    """
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        if settings.precision == "tf32":
            raise ConfigError(
                'train.precision = "tf32" is arithmetic of GPUs, and this run is on the CPU; set '
                'train.precision = "32-true"'
            )
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
        precision="32-true" if settings.precision == "tf32" else settings.precision,
    )
    fabric.launch()
    return fabric


@contextmanager
def products(device: torch.device, kind: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Multiply float32 on a GPU exactly, or with 10 bits of mantissa; elsewhere do nothing."""
    if device.type != "cuda":
        yield
        return
    convolutions: Any = torch.backends.cudnn  # its ``conv`` is no typed attribute
    units = (torch.backends.cuda.matmul, convolutions.conv)
    before = [unit.fp32_precision for unit in units]
    try:
        for unit in units:
            unit.fp32_precision = kind
        yield
    finally:
        for unit, value in zip(units, before, strict=True):
            unit.fp32_precision = value


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
        devices = [device.index] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), products(device, "ieee"):
            yield fabric
    finally:
        torch.set_num_threads(threads)
