"""Walking large tensors in pieces that stay in a CPU's cache through several passes."""

from __future__ import annotations

from torch import Tensor

_ELEMENTS = 2**17


def pieces(tensor: Tensor) -> list[slice]:
    """Split the first axis into pieces that fit the cache; one piece on a GPU."""
    count = tensor.shape[0]
    size = count
    if tensor.device.type == "cpu":
        size = max(1, _ELEMENTS * count // max(1, tensor.numel()))
    return [slice(start, start + size) for start in range(0, count, max(1, size))]
