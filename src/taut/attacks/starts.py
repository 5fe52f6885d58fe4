"""Where the runs of an attack begin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mix(seed: int, number: int) -> int:
    """Return a well-spread 63-bit number of two integers (one round of splitmix64)."""
    z = (seed + (number + 1) * _GOLDEN) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return (z ^ (z >> 31)) >> 1


def image_seeds(seed: int, indices: Iterable[int]) -> Tensor:
    """Return one seed per image, int64 (B,), from the run's seed and positions in the split."""
    return torch.tensor([mix(seed, int(index)) for index in indices], dtype=torch.int64)


def uniform(seeds: Tensor, restart: int, like: Tensor) -> Tensor:
    """Return numbers in [0, 1) of the shape of ``like`` (B, *shape).

    Image i's depend on its seed and on the restart alone: not on the batch, and not on the
    device, for they are drawn on the CPU.
    """
    noise = torch.empty(like.shape, dtype=like.dtype)
    generator = torch.Generator()
    for row, seed in enumerate(seeds.tolist()):
        generator.manual_seed(mix(seed, restart))
        noise[row].uniform_(0.0, 1.0, generator=generator)
    return noise.to(like.device)
