"""Random streams as functions of the seed and the epoch, and the shares of processes.

Nothing random in a run depends on what happened before its epoch, which is what makes a resumed
run repeat an uninterrupted one to the bit.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *path: int | str) -> int:
    """Return a 63-bit seed for the stream called ``path`` of the run seeded ``seed``."""
    text = "/".join(str(part) for part in (seed, *path))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(device: torch.device, seed: int, *path: int | str) -> torch.Generator:
    """Return a fresh generator for the stream called ``path``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))


def share(batch: int, rank: int, world: int) -> tuple[slice, float]:
    """Return which rows of a global batch a process takes, and the weight of its mean loss.

    The shares are contiguous and differ by at most one row. Gradients are averaged over
    processes, so the mean over a share of ``n`` of ``batch`` rows has to weigh
    ``n * world / batch`` for the sum to be the gradient of the global mean. A process whose
    share is empty takes one row with weight 0, because it has to take part in the averaging.
    """
    start, stop = rank * batch // world, (rank + 1) * batch // world
    if start == stop:
        return slice(0, 1), 0.0
    return slice(start, stop), (stop - start) * world / batch
