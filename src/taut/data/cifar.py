"""The two layouts of CIFAR-10 (Krizhevsky, 2009): Python pickles and binary records.

Both store an image as 3,072 bytes, channel by channel (red, green, blue), each row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.inert import Call, Global, parse_pickle
from taut.errors import DataError

_PIXELS = 3 * 32 * 32
_CLASSES = 10
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def parse_binary(content: bytearray, path: Path) -> Batch:
    """Return pixels ``(N, 3072)``, a view, and labels ``(N,)`` of a ``.bin`` file.

    A record is one byte for the label, then the pixels.

    Raises
    ------
    DataError
        When the length is no multiple of 3,073 bytes or a label is above 9.

    """
    record = 1 + _PIXELS
    if not content or len(content) % record:
        raise DataError(
            f"{path} is truncated: expected a multiple of {record} bytes, found {len(content)}"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= _CLASSES:
        raise DataError(f"{path} is no CIFAR-10 batch: it has the label {labels.max()}, above 9")
    return records[:, 1:], labels


def parse_python(content: bytearray, path: Path) -> Batch:
    """Return pixels ``(N, 3072)``, a view, and labels ``(N,)`` of a pickled batch.

    Nothing in the file is executed: see :mod:`taut.data.inert`.

    Raises
    ------
    DataError
        When the file is no pickle of a dictionary with ``data`` and ``labels`` that fit.

    """
    batch = parse_pickle(content, path)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"{path} is no CIFAR-10 batch: it has no data and labels")
    pixels = _array(batch[b"data"], path)
    labels = batch[b"labels"]
    if not isinstance(labels, list) or not all(
        isinstance(label, int) and 0 <= label < _CLASSES for label in labels
    ):
        raise DataError(f"{path} is no CIFAR-10 batch: its labels are not numbers from 0 to 9")
    if len(labels) != len(pixels):
        raise DataError(f"{path} has {len(pixels)} images but {len(labels)} labels")
    return pixels, np.array(labels, dtype=np.int64)


def _array(value: object, path: Path) -> NDArray[np.uint8]:
    """Return the array that a recorded call of numpy's ``_reconstruct`` stands for."""
    match value:
        case Call(
            function=Global("numpy.core.multiarray", "_reconstruct"),
            state=(
                1,
                (int(count), int(width)),
                Call(function=Global("numpy", "dtype"), arguments=(b"u1", _, _)),
                False,
                memoryview() as data,
            ),
        ) if count > 0 and width == _PIXELS and len(data) == count * width:
            return np.frombuffer(data, dtype=np.uint8).reshape(count, width)
    raise DataError(f"{path} is no CIFAR-10 batch: its data is no array of N x {_PIXELS} bytes")
