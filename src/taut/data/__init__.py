"""Data sets by name, the caller's own images, batches and augmentation.

    >>> import taut.data
    >>> sorted(taut.data.DATASETS)[:5]
    ['cifar10', 'fashion-mnist', 'imagenet', 'mnist', 'mnist-5k']

Splits are ``train``, ``validation``, ``train+validation`` and ``test``. MNIST, Fashion-MNIST
and CIFAR-10 have an official training and test part; ``validation`` is held out of the
official training part, which as a whole is ``train+validation``. So it is with ImageNet and
Tiny-ImageNet, whose official validation part is ``test`` here: their own test images have no
labels.
"""

from __future__ import annotations

import torch

from taut.data.augment import AUGMENTATIONS, Augment, find_augmentation
from taut.data.batches import batches, steps
from taut.data.describe import Dataset
from taut.data.download import get
from taut.data.images import ImageSet, centre
from taut.data.locate import PathLike
from taut.data.read import read_part
from taut.data.registry import DATASETS, find_dataset, find_split
from taut.data.splits import members

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augment",
    "Dataset",
    "ImageSet",
    "batches",
    "find_augmentation",
    "find_dataset",
    "get",
    "load",
    "steps",
]


def load(
    name: str | Dataset,
    split: str,
    data_dir: PathLike | None = None,
    device: torch.device | str = "cpu",
) -> ImageSet:
    """Load a split of a data set onto a device.

    Files are looked for in ``data_dir``, then in the folder that the environment variable
    ``TAUT_DATA`` names, then in the user's cache, and each is checked against its published
    SHA-256. The JPEG files of ImageNet and Tiny-ImageNet have no published sums; they are decoded
    once into the user's cache (:mod:`taut.data.decoded`).

    Parameters
    ----------
    name
        One of :data:`DATASETS`, or a description.
    split
        ``"train"``, ``"validation"``, ``"train+validation"`` or ``"test"``.
    data_dir
        Folder to look in first.
    device
        Where the images shall lie, as bytes.

    Raises
    ------
    ConfigError
        When the data set or the split is unknown, or JPEG files need Pillow, which is not there.
    DataError
        When files are missing or damaged; the message says where was searched and what to run.

    """
    dataset = find_dataset(name) if isinstance(name, str) else name
    chosen = find_split(dataset, split)
    images, labels = read_part(dataset, chosen.part, data_dir)
    index = members(dataset, chosen, labels)
    if index is not None:
        images, labels = images[index], labels[index]
    wide = torch.from_numpy(images).to(device)
    return ImageSet(
        centre(wide, dataset.margin),
        torch.from_numpy(labels).to(device),
        dataset.name,
        split,
        dataset.classes,
        wide if dataset.margin else None,
    )
