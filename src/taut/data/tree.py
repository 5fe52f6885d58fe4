"""Trees of single JPEG files: which images there are, and their labels.

As Tiny-ImageNet has them:
``wnids.txt`` names the classes by their WordNet ids. Training images of a class lie in
``train/<wnid>/images``, test images together in ``val/images``, and the lines of
``val/val_annotations.txt`` begin with a file and its wnid. The label is the position of the
wnid in alphabetical order, as torchvision's ``ImageFolder`` counts, not in ``wnids.txt``.

As ImageNet is unpacked: training images of a class lie in ``train/<wnid>``, test images in
``val/<wnid>``. Any of them may be missing; folders that name no class are an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.decoded import decoded
from taut.data.describe import Tree
from taut.errors import DataError

Listed = tuple[list[Path], list[int]]


def read_tree(
    folder: Path, part: str, tree: Tree, shape: tuple[int, int, int, int], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read a part of a tree.

    Parameters
    ----------
    folder
        Where ``wnids.txt`` is.
    part
        ``"train"`` (class by class, each in alphabetical order) or ``"test"`` (in the order of the
        annotations, or class by class).
    tree
        The classes.
    shape
        ``(N, C, H, W)``: how many images the part was published with, and of which shape. The
        training part of Tiny-ImageNet has as many of each class; its test part has those that are
        annotated.
    name
        What the decoded images are kept under, see :func:`taut.data.decoded.decoded`.

    Returns
    -------
    images, labels
        uint8 ``(N, C, H, W)``, grey images with three equal channels, and int64 ``(N,)``.

    Raises
    ------
    DataError
        When images are missing, too many or damaged; the message names the folder or the file.
    ConfigError
        When Pillow is not installed, or the cache cannot be written.

    """
    if tree.by_class:
        paths, labels = _whatever(folder / tree.needs[part][0], tree.classes, shape[0])
        images = decoded(paths, folder, shape[1:], f"{name}-{part}", resize=True)
        return images, np.array(labels, dtype=np.int64)
    _check_classes(folder / "wnids.txt", tree.classes)
    if part == "train":
        paths, labels = _by_class(folder / "train", tree.classes, shape[0] // len(tree.classes))
    else:
        paths, labels = _annotated(folder / "val", tree.classes, shape[0])
    images = decoded(paths, folder, shape[1:], f"{name}-{part}")
    return images, np.array(labels, dtype=np.int64)


def _check_classes(path: Path, classes: tuple[str, ...]) -> None:
    found = set(_text(path).split())
    strange = sorted(found.symmetric_difference(classes))
    if strange:
        verb = "names" if strange[0] in found else "lacks"
        raise DataError(
            f"{path} {verb} {strange[0]}; it is not the list of the {len(classes)} published "
            "classes"
        )


def _by_class(folder: Path, classes: tuple[str, ...], each: int) -> Listed:
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(classes):
        inside = folder / wnid / "images"
        names = sorted(_images(inside))
        if len(names) != each:
            raise DataError(f"{inside} holds {len(names)} JPEG images; published are {each}")
        paths += [inside / name for name in names]
        labels += [label] * each
    return paths, labels


def _whatever(folder: Path, classes: tuple[str, ...], most: int) -> Listed:
    """Return the images of the classes that have some, class by class."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for name in sorted(_names(folder)):
        if name not in label_of:
            raise DataError(f"{folder} has {name}, which is none of the {len(classes)} classes")
        found = [folder / name / image for image in sorted(_images(folder / name))]
        paths += found
        labels += [label_of[name]] * len(found)
    if not 1 <= len(paths) <= most:
        raise DataError(f"{folder} holds {len(paths)} JPEG images; published are {most}")
    return paths, labels


def _annotated(folder: Path, classes: tuple[str, ...], most: int) -> Listed:
    """Return what the annotations list; a shorter list is accepted with just its images."""
    path, inside = folder / "val_annotations.txt", folder / "images"
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    labels: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if not name or wnid not in label_of or name in labels:
            raise DataError(f"{path}: line {number} is no new image with one of the classes")
        labels[name] = label_of[wnid]
    there = _images(inside)
    absent, beyond = sorted(labels.keys() - there), sorted(there - labels.keys())
    if absent:
        raise DataError(f"{inside} lacks {absent[0]}, one of {len(absent)} annotated images")
    if beyond:
        raise DataError(f"{path} does not annotate {beyond[0]}, one of {len(beyond)} images")
    if not 1 <= len(labels) <= most:
        raise DataError(f"{path} annotates {len(labels)} images; published are {most}")
    return [inside / name for name in labels], list(labels.values())


def _images(folder: Path) -> set[str]:
    """Return the names of the JPEG files in a folder, hidden ones left out."""
    return {name for name in _names(folder) if name.endswith(".JPEG")}


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, hidden ones left out."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    return {name for name in names if not name.startswith(".")}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: {error}") from error
