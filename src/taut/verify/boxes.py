"""The region in float64, and its roundings to the precision a stage works in."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.region import Box

Range = tuple[float, float]


def coarser(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """Return the less precise of two floating-point types."""
    return max(first, second, key=lambda dtype: torch.finfo(dtype).eps)


def representable(data_range: Range | None, dtype: torch.dtype) -> Range | None:
    """Return the pixel range in the precision of the images.

    An image of float32 whose brightest pixel is the float32 number nearest to the end of the
    range lies within it, although in float64 that number may be above.
    """
    if data_range is None:
        return None
    low, high = torch.tensor(data_range, dtype=torch.float64).to(dtype).tolist()
    return low, high


def exact_box(x: Tensor, eps: float, data_range: Range | None) -> Box:
    """Return the clipped ball around images (B, *shape) in float64, whatever their dtype."""
    return Box.around(x.double(), eps, representable(data_range, x.dtype))


def outer_box(exact: Box, dtype: torch.dtype) -> Box:
    """Return a box of ``dtype`` that covers ``exact``: what a proof is about."""
    return Box(_round(exact.lower, dtype, -1), _round(exact.upper, dtype, 1))


def inner_box(exact: Box, dtype: torch.dtype) -> Box:
    """Return a box of ``dtype`` inside ``exact``: where counterexamples are looked for.

    Where no number of ``dtype`` lies between the ends (which takes an image of higher
    precision than ``dtype``) the box is one point next to them, and the replay refuses it.
    """
    lower, upper = _round(exact.lower, dtype, 1), _round(exact.upper, dtype, -1)
    return Box(lower, torch.maximum(lower, upper))


def _round(value: Tensor, dtype: torch.dtype, direction: int) -> Tensor:
    """Round float64 to ``dtype``, down (-1) or up (1)."""
    nearest = value.to(dtype)
    towards = torch.full_like(nearest, direction * torch.inf)
    wrong = nearest.double() > value if direction < 0 else nearest.double() < value
    return torch.where(wrong, torch.nextafter(nearest, towards), nearest)
