"""From files to arrays: every format ends in images ``(N, C, H, W)`` and labels ``(N,)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.cifar import Batch, parse_binary, parse_python
from taut.data.content import check_sum, read_content
from taut.data.describe import Dataset, File, Format
from taut.data.digits import parse_digits
from taut.data.idx import parse_idx
from taut.data.locate import PathLike, Place, find, missing, remedy
from taut.data.tree import read_tree
from taut.errors import DataError

Files = tuple[tuple[File, Path], ...]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_part(dataset: Dataset, part: str, data_dir: PathLike | None = None) -> Arrays:
    """Find, read and verify one published part.

    Every file is checked against its published size and SHA-256, so the result is the
    data set of that name, never something like it. Trees of single images have no published
    sums: names, numbers and sizes are checked (see :mod:`taut.data.tree`).

    Returns
    -------
    images, labels
        uint8 ``(N, C, H, W)``, with the margin of the data set, and int64 ``(N,)``, in file
        order.

    Raises
    ------
    DataError
        When files are missing, unreadable or not the published ones; it says what to run.
    ConfigError
        When a package that decodes images is not installed, or decoded images cannot be kept.

    """
    place = find(dataset, part, data_dir)
    if place is None:
        raise missing(dataset, part, data_dir)
    shape = (dataset.part_size(part), *dataset.stored_shape)
    tree = place.layout.tree
    try:
        if tree is not None:
            images, labels = read_tree(
                place.folder, part, tree, shape, dataset.family or dataset.name
            )
        else:
            images, labels = _READERS[place.layout.format](
                place.files, shape[0], dataset.stored_shape
            )
    except DataError as error:
        raise DataError(f"{error}; run `{_advice(dataset, place, data_dir)}`") from error
    if tree is not None and part in tree.partial and len(images) < shape[0]:
        shape = (len(images), *dataset.stored_shape)
    if images.shape != shape or labels.shape != shape[:1]:
        raise DataError(
            f"{place.folder}: {dataset.name} {part} is described as {shape}, but the files hold "
            f"images {images.shape} and labels {labels.shape}"
        )
    if labels.max() >= len(dataset.classes):
        raise DataError(f"{place.folder}: label {labels.max()} names no class of {dataset.name}")
    return images, labels


def _advice(dataset: Dataset, place: Place, data_dir: PathLike | None) -> str:
    """Return the command that replaces a damaged file where it was found."""
    if data_dir is not None and not place.folder.is_relative_to(Path(data_dir).expanduser()):
        data_dir = None
    return remedy(dataset, data_dir)


def _read_idx(files: Files, count: int, shape: tuple[int, int, int]) -> Arrays:
    (images, images_path), (labels, labels_path) = files
    content = read_content(images_path, images.size)
    pixels = parse_idx(content, images_path, 3)
    check_sum(content, images, images_path)
    content = read_content(labels_path, labels.size)
    classes = parse_idx(content, labels_path, 1)
    check_sum(content, labels, labels_path)
    return pixels[:, None], classes.astype(np.int64)


def _batches(
    parse: Callable[[bytearray, Path], Batch],
) -> Callable[[Files, int, tuple[int, int, int]], Arrays]:
    """Return the reader of a part in batches; it holds one batch beside the result."""

    def read(files: Files, count: int, shape: tuple[int, int, int]) -> Arrays:
        images = np.empty((count, math.prod(shape)), dtype=np.uint8)
        labels = np.empty(count, dtype=np.int64)
        start = 0
        for file, path in files:
            content = read_content(path, file.size)
            pixels, classes = parse(content, path)
            check_sum(content, file, path)
            stop = start + len(classes)
            if stop > count:
                raise DataError(f"{path} brings the part to {stop} images, above {count}")
            images[start:stop], labels[start:stop] = pixels, classes
            start = stop
        if start < count:
            raise DataError(f"{path} ends the part at {start} images, below {count}")
        return images.reshape(count, *shape), labels

    return read


_PARSED: dict[str, Arrays] = {}
"""Pixels and labels of text files that were read, by their sums: each split reads the same."""


def _read_digits(files: Files, count: int, shape: tuple[int, int, int]) -> Arrays:
    ((file, path),) = files
    content = read_content(path, file.size)
    check_sum(content, file, path)
    if file.sha256 not in _PARSED:
        _PARSED[file.sha256] = parse_digits(content, path, math.prod(shape))
    pixels, labels = _PARSED[file.sha256]
    return pixels.reshape(-1, *shape).copy(), labels.copy()


_READERS: dict[Format, Callable[[Files, int, tuple[int, int, int]], Arrays]] = {
    "idx": _read_idx,
    "cifar-python": _batches(parse_python),
    "cifar-binary": _batches(parse_binary),
    "digits": _read_digits,
}
