"""Labelled images on a device, kept as bytes where they came as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taut.errors import DataError

Array = Tensor | NDArray[np.generic]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images and labels on one device.

    Parameters
    ----------
    images
        ``(N, C, H, W)``: uint8 from 0 to 255, or float32 from 0 to 1.
    labels
        ``(N,)``, int64, positions in ``classes``.
    name, split
        Which data set and which split of it, for reports.
    classes
        Class names.
    wide
        ``(N, C, H + 2m, W + 2m)`` or None: the images with a margin of m pixels, of which
        ``images`` is the centre. Only random crops in training read it, see
        :func:`taut.data.batches`.

    Raises
    ------
    DataError
        When shapes, types or devices do not fit. Values are checked by :meth:`from_tensors`.

    Examples
    --------
    >>> import torch
    >>> digits = ImageSet.from_tensors(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), 2)
    >>> digits
    ImageSet(custom/all: 3 images of 1 x 2 x 2, torch.float32, 2 classes, cpu)
    >>> len(digits[1:])
    2

    """

    images: Tensor
    labels: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    wide: Tensor | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dim() != 4 or images.dtype not in (torch.uint8, torch.float32):
            raise DataError(
                "images must be uint8 or float32 of shape (N, channels, height, width); "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise DataError(
                f"labels must be int64 of shape ({len(images)},), one per image; "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if labels.device != images.device:
            raise DataError(
                f"images are on {images.device} but labels on {labels.device}; "
                "put both on one device"
            )
        if self.wide is not None:
            _check_margin(images, self.wide)

    @classmethod
    def from_tensors(
        cls,
        images: Array,
        labels: Array,
        classes: int | Sequence[str],
        *,
        name: str = "custom",
        split: str = "all",
    ) -> ImageSet:
        """Return a set of the caller's own images, after checking every value.

        Parameters
        ----------
        images
            Tensor or array ``(N, C, H, W)``, N at least 1: uint8 from 0 to 255, or floating
            point from 0 to 1, which is stored as float32. A tensor that already has the
            stored type is not copied.
        labels
            ``(N,)``, whole numbers from 0 to the number of classes less 1.
        classes
            Number of classes, or their names.
        name, split
            What reports call the set.

        Raises
        ------
        DataError
            When a shape, a type or a value does not fit; the message names the first culprit.

        """
        names = _class_names(classes)
        pixels, y = _tensor(images, "images"), _tensor(labels, "labels")
        if pixels.is_floating_point():
            pixels = _check_range(pixels).to(torch.float32)
        if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
            raise DataError(f"labels must be whole numbers; got {y.dtype}")
        result = cls(pixels, y.to(torch.int64), name, split, names)
        if not len(result):
            raise DataError("an image set needs at least one image; got none")
        wrong = ((result.labels < 0) | (result.labels >= len(names))).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"label {int(y[first])} of image {first} is out of range: "
                f"there are {len(names)} classes, 0 to {len(names) - 1}"
            )
        return result

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """The device the images are on."""
        return self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> ImageSet:
        """Return the set of the indexed images; ``index`` is a slice, int64 or bool tensor."""
        if not isinstance(index, slice | Tensor):
            raise TypeError(
                f"index an image set by a slice or a tensor, not {type(index).__name__}; "
                "one image is set.images[i] or set.pixels(i)"
            )
        if isinstance(index, Tensor):
            index = index.to(self.device)
        return self._mapped(lambda values: values[index])

    def first(self, count: int) -> ImageSet:
        """Return the first ``count`` images, or raise :class:`DataError` when there are fewer."""
        if not 1 <= count <= len(self):
            raise DataError(
                f"asked for the first {count} images of {self.name} {self.split}, which has "
                f"{len(self)}; ask for 1 to {len(self)}"
            )
        return self[:count]

    def pixels(self, index: int | slice | Tensor = slice(None)) -> Tensor:
        """Return images as float32 from 0 to 1, a copy.

        A byte k becomes k / 255 rounded to float32. Shape ``(B, C, H, W)``, or
        ``(C, H, W)`` for one number.
        """
        if isinstance(index, Tensor):
            index = index.to(self.device)
        chosen = self.images[index]
        return as_pixels(chosen) if chosen.dtype == torch.uint8 else chosen.clone()

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        return torch.bincount(self.labels.cpu(), minlength=len(self.classes)).tolist()

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the set on another device."""
        return self._mapped(lambda values: values.to(device))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> ImageSet:
        """Return the set with its tensors changed; the images stay a view of ``wide``."""
        if self.wide is None:
            images, wide = change(self.images), None
        else:
            wide = change(self.wide)
            images = centre(wide, (self.wide.shape[2] - self.images.shape[2]) // 2)
        return replace(self, images=images, labels=change(self.labels), wide=wide)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return (
            f"ImageSet({self.name}/{self.split}: {len(self)} images of {size}, "
            f"{self.images.dtype}, {len(self.classes)} classes, {self.device})"
        )


def as_pixels(images: Tensor) -> Tensor:
    """Return bytes as float32 in [0, 1] (k / 255, rounded once); float32 as it is, uncopied."""
    return images.to(torch.float32).div_(255.0) if images.dtype == torch.uint8 else images


def centre(wide: Tensor, margin: int) -> Tensor:
    """Return images ``(N, C, H, W)`` without ``margin`` pixels on every side, as a view."""
    height, width = wide.shape[2:]
    return wide[:, :, margin : height - margin, margin : width - margin]


def _check_margin(images: Tensor, wide: Tensor) -> None:
    margins = [(b - a) / 2 for a, b in zip(images.shape[2:], wide.shape[2:], strict=True)]
    if (
        wide.dtype != images.dtype
        or wide.device != images.device
        or wide.shape[:2] != images.shape[:2]
        or margins[0] != margins[1]
        or margins[0] < 0
        or not margins[0].is_integer()
    ):
        raise DataError(
            f"images {images.dtype} {tuple(images.shape)} are not the centre of wide ones "
            f"{wide.dtype} {tuple(wide.shape)} with one margin on every side, on one device"
        )


def _class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    if len(names) < 2:
        raise DataError(f"a classifier needs at least 2 classes; got {len(names)}")
    return names


def _tensor(values: Array, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    if isinstance(values, np.ndarray):
        try:
            # A copy: the array may be read-only, or strided backwards.
            return torch.from_numpy(values.copy())
        except TypeError as error:
            raise DataError(f"{what} of type {values.dtype} are not supported") from error
    raise DataError(f"{what} must be a torch tensor or a numpy array; got {type(values).__name__}")


def _check_range(pixels: Tensor) -> Tensor:
    """Return ``pixels`` when all lie in [0, 1]; NaN fails the comparison too."""
    inside = (pixels >= 0) & (pixels <= 1)
    if not bool(inside.all()):
        value = float(pixels[~inside][0])
        raise DataError(
            f"pixels must lie in [0, 1], but there is {value:g}; divide bytes by 255 or pass "
            "them as uint8 (normalisation belongs into the model)"
        )
    return pixels
