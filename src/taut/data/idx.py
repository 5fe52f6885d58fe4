"""The idx format of MNIST.

Two zero bytes, one byte for the type (8: unsigned bytes), one for the number of
dimensions, the dimensions as big-endian 32-bit integers, then the values in C order
(LeCun, Cortes and Burges, The MNIST database).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.errors import DataError

_BYTES = 8


def parse_idx(content: bytearray, path: Path, dims: int) -> NDArray[np.uint8]:
    """Return the array in an idx file, without copying it.

    Parameters
    ----------
    content
        The whole file, unpacked.
    path
        Where it came from, for messages.
    dims
        Number of dimensions it must have: 3 for images, 1 for labels.

    Raises
    ------
    DataError
        When the magic number, the number of dimensions or the length is not as it should be.

    """
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataError(
            f"{path} is truncated: expected a header of {start} bytes, found {len(content)}"
        )
    magic, expected = bytes(content[:4]), bytes((0, 0, _BYTES, dims))
    if magic != expected:
        raise DataError(
            f"{path} is no idx file of bytes with {dims} dimension(s): "
            f"expected it to start with {expected.hex()}, found {magic.hex()}"
        )
    shape: tuple[int, ...] = struct.unpack_from(f">{dims}I", content, 4)
    size = start + math.prod(shape)
    if len(content) != size:
        raise DataError(
            f"{path} announces {' x '.join(map(str, shape))} values: "
            f"expected {size} bytes, found {len(content)}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
