"""How much memory the coefficients of a linear relaxation may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from taut.errors import RunError

SHARE = 0.25
"""Of the free memory, what a bounding call takes for its coefficients by default."""

_CGROUPS = (  # the limit of a container, and what it has used
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


_SHARERS: ContextVar[int] = ContextVar("_SHARERS", default=1)


class BudgetError(RunError, MemoryError):
    """Coefficients do not fit the budget. A ``MemoryError`` too: a cascade halves its batch."""


def free_bytes(device: torch.device) -> int:
    """Return how many bytes are free on a device, within the limits this process runs under."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(reserved)
    found = [_available(), *(_left(limit, used) for limit, used in _CGROUPS)]
    return max(1, min(size for size in found if size is not None))


def allowance(budget: int | None, device: torch.device) -> int:
    """Return ``budget`` in bytes, by default a quarter of what is free on ``device``.

    Of that quarter, one share where several processes work side by side (:func:`sharing`).
    """
    if budget is not None:
        return budget
    return max(1, int(SHARE * free_bytes(device)) // _SHARERS.get())


@contextmanager
def sharing(processes: int) -> Iterator[None]:
    """Within it, this process is one of ``processes`` that divide the free memory."""
    token = _SHARERS.set(processes)
    try:
        yield
    finally:
        _SHARERS.reset(token)


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left(limit: str, used: str) -> int | None:
    """Return what a container's limit leaves, None where there is none."""
    try:
        most, now = Path(limit).read_text().strip(), int(Path(used).read_text())
    except (OSError, ValueError):
        return None
    return None if most == "max" else max(0, int(most) - now)
