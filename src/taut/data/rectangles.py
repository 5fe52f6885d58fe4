"""Random rectangles of images: erased ones, and ones blown up to the size of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.errors import ConfigError

_TRIES = 10
"""Rectangles drawn for an image before the whole image is taken."""

GREY = 128
"""The byte of mid-grey, 0.5 in pixels of [0, 1]; no even grid of less than 255 cells has an edge
between the two."""


class Rectangles(NamedTuple):
    """One rectangle per image, in pixels, each ``(B,)`` int64: its corner and its sides."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_rectangles(
    images: Tensor,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Rectangles:
    r"""Draw a rectangle in each image of a batch ``(B, C, H, W)``, on the generator's device.

    A share a of the area, uniform in ``area``, and a ratio r, log-uniform in ``ratio``, make the
    sides :math:`\sqrt{aHWr}` and :math:`\sqrt{aHW/r}`, rounded. The first of ten such pairs that
    fits is taken, the whole image where none does; all its places are equally likely.
    """
    (batch, _, rows, columns), device = images.shape, generator.device
    drawn = torch.rand(4, batch, _TRIES, generator=generator, device=device, dtype=torch.float64)
    share = area[0] + (area[1] - area[0]) * drawn[0]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * drawn[1]).exp()
    height = (share * rows * columns * shape).sqrt().round().long().clamp(min=1)
    width = (share * rows * columns / shape).sqrt().round().long().clamp(min=1)
    fits = (height <= rows) & (width <= columns)
    first = fits.double().argmax(1, keepdim=True)  # 0 where none fits
    none = ~fits.any(1)
    height = height.gather(1, first)[:, 0].masked_fill(none, rows)
    width = width.gather(1, first)[:, 0].masked_fill(none, columns)
    top = (drawn[2, :, 0] * (rows - height + 1)).long()
    left = (drawn[3, :, 0] * (columns - width + 1)).long()
    return Rectangles(top, left, height, width)


@dataclass(frozen=True)
class Erase:
    """Paint a random rectangle mid-grey.

    Parameters
    ----------
    probability
        Share of the images that lose one.
    area
        Least and largest share of the image's area.
    ratio
        Least and largest ratio of height to width.

    Raises
    ------
    ConfigError
        When a value is out of range.

    References
    ----------
    Zhong et al., *Random erasing data augmentation* (2020).

    """

    probability: float = 0.5
    area: tuple[float, float] = (0.04, 0.2)
    ratio: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"erase.probability must lie in [0, 1]; got {self.probability:g}")
        _check("erase", self.area, self.ratio)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images ``(B, C, H, W)``, uint8 or floating point in [0, 1], some with a hole."""
        chosen = torch.rand(len(images), generator=generator, device=generator.device)
        place = draw_rectangles(images, self.area, self.ratio, generator)
        return self.apply(images, place, chosen < self.probability)

    def apply(self, images: Tensor, place: Rectangles, chosen: Tensor) -> Tensor:
        """Return the images with the rectangles of those ``chosen`` ``(B,)`` painted."""
        top, left, height, width = (side.to(images.device)[:, None] for side in place)
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        high = (rows >= top) & (rows < top + height) & chosen.to(images.device)[:, None]
        wide = (columns >= left) & (columns < left + width)
        return images.masked_fill((high[:, :, None] & wide[:, None])[:, None], grey(images))


@dataclass(frozen=True)
class Enlarge:
    """Cut a random rectangle out and enlarge it to the size of the image, bilinearly.

    Parameters
    ----------
    area
        Least and largest share of the image's area.
    ratio
        Least and largest ratio of height to width.

    Raises
    ------
    ConfigError
        When a value is out of range.

    References
    ----------
    Szegedy et al., *Going deeper with convolutions* (2015), Sec. 6.

    """

    area: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)

    def __post_init__(self) -> None:
        _check("enlarge", self.area, self.ratio)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images ``(B, C, H, W)`` of the same type and size."""
        return self.apply(images, draw_rectangles(images, self.area, self.ratio, generator))

    def apply(self, images: Tensor, place: Rectangles) -> Tensor:
        """Return the rectangles at the size of the images; bytes are rounded."""
        top, left, height, width = (side.to(images.device) for side in place)
        rows = _places(top, height, images.shape[2])
        columns = _places(left, width, images.shape[3])
        size = (len(images), images.shape[2], images.shape[3])
        grid = torch.stack(
            [columns[:, None, :].expand(size), rows[:, :, None].expand(size)], dim=-1
        )
        pixels = images if images.is_floating_point() else images.float()
        found = F.grid_sample(
            pixels, grid.to(pixels.dtype), padding_mode="border", align_corners=False
        )
        return found if images.is_floating_point() else found.round_().clamp_(0, 255).to(images)


def grey(images: Tensor) -> float:
    """Return mid-grey as images of this type have it."""
    return 0.5 if images.is_floating_point() else GREY


def _places(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where the centres of pixels ``(B, size)`` lie in the image, from -1 to 1."""
    steps = (torch.arange(size, device=first.device) + 0.5) / size
    # a pixel outside the rectangle may not shine in from beyond its border
    within = torch.minimum((steps * length[:, None]).clamp(min=0.5), length[:, None] - 0.5)
    return 2.0 * (first[:, None] + within) / size - 1.0


def _check(name: str, area: tuple[float, float], ratio: tuple[float, float]) -> None:
    if not 0.0 < area[0] <= area[1] <= 1.0:
        raise ConfigError(f"{name}.area must be two ascending shares in (0, 1]; got {area}")
    if not 0.0 < ratio[0] <= ratio[1] < math.inf:
        raise ConfigError(f"{name}.ratio must be two ascending positive numbers; got {ratio}")
