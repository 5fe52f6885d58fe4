"""Means of an epoch's losses, and the watch over losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from taut.errors import TautError


class DivergenceError(TautError):
    """A loss or a weight is NaN or infinite; training stopped."""


class Meter:
    """Collects scalars step by step and reads them from the device only now and then.

    Reading a scalar waits for a GPU; :meth:`read` therefore takes all steps since the last
    reading at once, in one transfer (and, with several processes, one reduction).

    Parameters
    ----------
    reduce
        Sums a tensor over all processes.

    """

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self._reduce = reduce
        self._waiting: list[tuple[int, float, dict[str, Tensor]]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, step: int, images: float, values: Mapping[str, Tensor]) -> None:
        """Note the values of ``step``, means over this process's ``images`` images."""
        self._waiting.append((step, images, dict(values)))

    def read(self) -> tuple[dict[str, float], tuple[int, str] | None]:
        """Return the means of the latest step, and the first (step, name) that is not finite."""
        latest: dict[str, float] = {}
        broken: tuple[int, str] | None = None
        for step, names, row in self._fetch():
            count, *weighted = row
            latest = {n: w / count for n, w in zip(names, weighted, strict=True)}
            for name, value in latest.items():
                if broken is None and not math.isfinite(value):
                    broken = (step, name)
                self._sums[name] = self._sums.get(name, 0.0) + value * count
                self._counts[name] = self._counts.get(name, 0.0) + count
        return latest, broken

    def _fetch(self) -> list[tuple[int, tuple[str, ...], list[float]]]:
        """Return (step, names, [images, sums...]) of the waiting steps, reduced over processes."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        flat = torch.stack(
            [
                value.double() * images
                for _, images, values in waiting
                for value in (torch.ones_like(next(iter(values.values()))), *values.values())
            ]
        )
        numbers = self._reduce(flat).tolist()
        found, at = [], 0
        for step, _, values in waiting:
            found.append((step, tuple(values), numbers[at : at + 1 + len(values)]))
            at += 1 + len(values)
        return found

    def means(self, prefix: str) -> dict[str, float]:
        """Return the means over all images so far of the values whose names begin ``prefix/``."""
        start = prefix + "/"
        return {
            name.removeprefix(start): total / self._counts[name]
            for name, total in self._sums.items()
            if name.startswith(start)
        }
