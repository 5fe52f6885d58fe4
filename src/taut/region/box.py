"""Boxes: every pixel moves in an interval of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import RegionError
from taut.region.base import (
    PIXELS,
    check_range,
    check_rows,
    dot,
    flat_points,
    flat_rows,
    radius_like,
)


@dataclass(frozen=True, eq=False)
class Box:
    """The product of intervals ``{x : lower <= x <= upper}``, one box per image.

    Parameters
    ----------
    lower, upper
        Tensors of shape ``(B, *shape)``, finite, ``lower <= upper``.

    Raises
    ------
    RegionError
        When the shapes, types or devices differ, or the box is empty or not finite.

    """

    exact_box: ClassVar[bool] = True

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        low, high = self.lower, self.upper
        if low.shape != high.shape or low.dim() < 2:
            raise RegionError(
                f"a box needs two tensors of one shape (batch, ...); "
                f"got lower {tuple(low.shape)} and upper {tuple(high.shape)}"
            )
        if low.dtype != high.dtype or low.device != high.device or not low.is_floating_point():
            raise RegionError(
                f"a box needs two floating-point tensors of one type on one device; "
                f"got {low.dtype} on {low.device} and {high.dtype} on {high.device}"
            )

    @classmethod
    def around(
        cls,
        x: Tensor,
        eps: float | Tensor,
        data_range: tuple[float, float] | None = PIXELS,
    ) -> Box:
        r"""Return the l_inf ball of radius ``eps`` around ``x``, clipped to the pixel range.

        .. math:: [\max(x-\varepsilon, lo),\ \min(x+\varepsilon, hi)]

        Parameters
        ----------
        x
            Images, shape ``(B, *shape)``, raw pixels.
        eps
            Radius in pixel units of [0, 1]: a number, one per image ``(B,)``, or
            one per pixel (any shape that broadcasts to ``x``).
        data_range
            Pixel range; ``None`` leaves the ball whole.

        Raises
        ------
        RegionError
            When ``eps`` is negative, NaN, infinite or of a shape that does not fit, or ``x``
            leaves the pixel range.

        """
        radius = radius_like(x, eps)
        lower, upper = x - radius, x + radius
        if data_range is not None:
            check_range(x, data_range)
            lower, upper = lower.clamp_(min=data_range[0]), upper.clamp_(max=data_range[1])
        return cls(lower, upper)

    @property
    def box(self) -> Box:
        """The box itself."""
        return self

    @property
    def center(self) -> Tensor:
        """Midpoint ``(lower + upper) / 2``, shape ``(B, *shape)``."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half width ``(upper - lower) / 2``, shape ``(B, *shape)``."""
        return (self.upper - self.lower) / 2

    @property
    def shape(self) -> torch.Size:
        """Shape of a batch of points, ``(B, *shape)``."""
        return self.lower.shape

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the ends."""
        return self.lower.dtype

    @property
    def device(self) -> torch.device:
        """Device of the ends."""
        return self.lower.device

    def check(self) -> Box:
        """Return the box itself after checking that it is finite and not empty."""
        if not bool((self.lower <= self.upper).all()):  # also false for NaN
            raise RegionError("a box has a lower end above its upper end, or holds NaN")
        if not bool(torch.isfinite(self.lower).all() and torch.isfinite(self.upper).all()):
            raise RegionError("a box has an infinite end; every pixel needs finite bounds")
        return self

    def minimum(self, rows: Tensor) -> Tensor:
        r"""Return the exact minimum of linear forms over the box, shape ``(B, R)``.

        .. math:: \min_{l \le x \le u} a x = a c - |a| r, \qquad c = (l+u)/2,\ r = (u-l)/2

        Gradients flow to ``rows`` and to the ends.

        Parameters
        ----------
        rows
            Coefficients a, shape ``(B, R, *shape)``.

        Raises
        ------
        RegionError
            When ``rows`` has another shape.

        """
        check_rows(rows, self.shape)
        center = torch.lerp(self.lower, self.upper, 0.5)
        form = flat_rows(rows)
        radius = self.upper - center  # of the rounded center, as interval propagation has it
        return dot(form, flat_points(center)) - dot(form.abs(), flat_points(radius))

    def each(self, function: Callable[[Tensor], Tensor]) -> Box:
        """Return the box with ``function`` applied to both ends, for instance a window.

        A pixel at which the function gives 0 for both is the fixed value 0.
        """
        return Box(function(self.lower), function(self.upper))

    def contains(self, x: Tensor) -> Tensor:
        """Tell for each image whether ``x`` lies in its box; a boolean ``(B,)``."""
        return ((x >= self.lower) & (x <= self.upper)).flatten(1).all(1)

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest point of the box (l_inf and l_2 alike)."""
        return torch.maximum(torch.minimum(x, self.upper), self.lower)

    def __len__(self) -> int:
        return self.lower.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Box:
        return Box(self.lower[index], self.upper[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Box:
        """Return the box on another device or in another precision."""
        return Box(
            self.lower.to(device=device, dtype=dtype), self.upper.to(device=device, dtype=dtype)
        )
