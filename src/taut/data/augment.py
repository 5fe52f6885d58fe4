"""Random flips, shifts and rectangles of a whole batch at once, on the device it lies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from taut.data.rectangles import Enlarge, Erase, grey
from taut.errors import ConfigError, DataError

Padding = Literal["zeros", "edge", "reflect", "grey"]


class Offsets(NamedTuple):
    """What was drawn for each image of a batch, on the device of the generator.

    ``top`` and ``left`` ``(B,)`` int64: corner of the crop in the padded image;
    ``flip`` ``(B,)`` bool: mirrored left to right after cropping.
    """

    top: Tensor
    left: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Augment:
    """Erase or enlarge a rectangle; pad, crop at random, flip left to right at random.

    Every one of the ``(H + 2 pad - crop + 1) x (W + 2 pad - crop + 1)`` crops of the padded
    image is equally likely and, with ``flip``, its mirror image as likely as itself.

    Parameters
    ----------
    flip
        Mirror each image left to right with probability 1/2.
    pad
        Pixels added on every side.
    mode
        What they hold: ``"zeros"`` (black: normalisation is a layer of the model and comes
        later), ``"edge"`` (the nearest pixel), ``"reflect"`` (mirrored, the edge not repeated),
        ``"grey"`` (mid-grey: 0.5, or the byte 128).
    crop
        Height and width of the result in pixels; ``None`` keeps those of the image.
    erase
        Paints a rectangle before anything is cropped; ``None`` paints none.
    enlarge
        Enlarges a rectangle before anything is cropped; ``None`` leaves the image as it is.

    Raises
    ------
    ConfigError
        When a value is out of range.

    """

    flip: bool = False
    pad: int = 0
    mode: Padding = "zeros"
    crop: int | None = None
    erase: Erase | None = None
    enlarge: Enlarge | None = None

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ConfigError(f"pad must be 0 pixels or more; got {self.pad}")
        if self.mode not in get_args(Padding):
            raise ConfigError(
                f"padding mode {self.mode!r} is none of {', '.join(get_args(Padding))}"
            )
        if self.crop is not None and self.crop < 1:
            raise ConfigError(f"crop must be 1 pixel or more; got {self.crop}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the augmented batch.

        Parameters
        ----------
        images
            ``(B, C, H, W)``, any type.
        generator
            The only source of randomness. It may be on the CPU whatever the device of the
            images; the draws are then the same on every device.

        Returns
        -------
        Tensor
            ``(B, C, crop, crop)`` of the same type (the same height and width when ``crop`` is
            None); the batch itself when there is nothing to do.

        Raises
        ------
        DataError
            When the images are too small for the crop or the reflection.

        """
        if self == Augment(mode=self.mode):
            return images
        self.size(images)
        for change in (self.enlarge, self.erase):
            if change is not None:
                images = change(images, generator)
        return self.apply(images, self.draw(images, generator))

    def size(self, images: Tensor) -> tuple[int, int]:
        """Return height and width of the result, or raise :class:`DataError` if impossible."""
        if images.dim() != 4:
            raise DataError(f"a batch is (B, C, H, W); got shape {tuple(images.shape)}")
        height, width = images.shape[2:]
        smaller = min(height, width)
        if self.crop is not None and self.crop > smaller + 2 * self.pad:
            raise DataError(
                f"cannot crop {self.crop} pixels out of {smaller} + 2 x {self.pad}; "
                "raise the padding or lower the crop"
            )
        if self.mode == "reflect" and self.pad >= smaller:
            raise DataError(f"cannot reflect {self.pad} pixels of an image of {smaller}")
        return (height, width) if self.crop is None else (self.crop, self.crop)

    def draw(self, images: Tensor, generator: torch.Generator) -> Offsets:
        """Draw shifts and flips for a batch: rows, columns, flips, each only if in use."""
        batch, device = len(images), generator.device
        height, width = self.size(images)

        def below(count: int) -> Tensor:
            if count == 1:
                return torch.zeros(batch, dtype=torch.int64, device=device)
            return torch.randint(count, (batch,), generator=generator, device=device)

        top = below(images.shape[2] + 2 * self.pad - height + 1)
        left = below(images.shape[3] + 2 * self.pad - width + 1)
        return Offsets(top, left, below(2 if self.flip else 1).bool())

    def apply(self, images: Tensor, offsets: Offsets) -> Tensor:
        """Return the crops that ``offsets`` names.

        Nothing is padded: pixel (i, j) of image b comes from row ``top[b] + i - pad`` and
        column ``left[b] + j - pad`` (``left[b] + w - 1 - j - pad`` when flipped) of the image,
        where a place outside it is mapped back into it or painted as ``mode`` says.
        """
        batch, channels, height, width = images.shape
        high, wide = self.size(images)
        top, left, flip = (drawn.to(images.device)[:, None] for drawn in offsets)
        column = torch.arange(wide, device=images.device)
        rows = top + torch.arange(high, device=images.device) - self.pad
        columns = left + torch.where(flip, wide - 1 - column, column) - self.pad
        source = self._inside(rows, height)[:, :, None] * width
        source = (source + self._inside(columns, width)[:, None, :]).view(batch, 1, high * wide)
        flat = images.reshape(batch, channels, height * width)
        result = flat.gather(2, source.expand(-1, channels, -1)).view(batch, channels, high, wide)
        if self.mode in ("zeros", "grey") and self.pad:
            outside = ((rows < 0) | (rows >= height))[:, :, None]
            outside = outside | ((columns < 0) | (columns >= width))[:, None, :]
            result.masked_fill_(outside[:, None], grey(images) if self.mode == "grey" else 0)
        return result

    def _inside(self, places: Tensor, size: int) -> Tensor:
        """Map row or column numbers that fall outside 0 .. size - 1 back inside."""
        if self.mode == "reflect":
            return (size - 1) - ((size - 1) - places.abs()).abs()
        return places.clamp(0, size - 1)


AUGMENTATIONS: dict[str, Augment] = {
    # MNIST everywhere: no augmentation.
    "none": Augment(),
    "flip": Augment(flip=True),
    # CIFAR-10 of CROWN-IBP, GM-CROWN-IBP, LBP, AdvIBP and DeepMind's IBP.
    "flip-crop4-zeros": Augment(flip=True, pad=4, mode="zeros"),
    # CIFAR-10 of auto_LiRPA (Xu et al., 2020); Tiny-ImageNet at 64 x 64 of Shi and CTBench.
    "flip-crop4-edge": Augment(flip=True, pad=4, mode="edge"),
    # CIFAR-10 of Shi et al. (2021), SABR and CTBench.
    "flip-crop2-edge": Augment(flip=True, pad=2, mode="edge"),
    # Tiny-ImageNet at 56 x 56, random crops of 64 x 64: Xu et al. (2020), LBP and SABR.
    "flip-crop56": Augment(flip=True, crop=56),
    # CIFAR-10 and ImageNet of ABSCERT (Zhang et al., 2023).
    "flip-erase-crop4-grey": Augment(flip=True, pad=4, mode="grey", erase=Erase()),
    "flip-enlarge": Augment(flip=True, enlarge=Enlarge()),
}
"""The augmentations of published training settings, by name."""


def find_augmentation(name: str) -> Augment:
    """Return an augmentation by name, or raise :class:`ConfigError` listing the names."""
    if name not in AUGMENTATIONS:
        raise ConfigError(f"unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
