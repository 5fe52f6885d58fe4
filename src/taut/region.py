"""Input sets: the perturbations a proof has to cover.

A region is clipped in one place, here: first the ball around the image in raw
pixels, then the pixel range. Normalisation is a layer of the model, so ``eps``
is always in pixel units of [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.errors import RegionError

PIXELS = (0.0, 1.0)
"""The pixel range every data set of taut uses."""


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
            When ``eps`` is negative, NaN or infinite, or ``x`` leaves the pixel range.

        """
        if isinstance(eps, Tensor):
            if not bool(torch.isfinite(eps).all()) or bool((eps < 0).any()):
                raise RegionError("eps must be finite and not negative; give it in pixel units")
            radius: float | Tensor = eps.to(x)
            if eps.dim() == 1 and x.dim() > 1 and eps.shape[0] == x.shape[0]:
                radius = eps.to(x).view(-1, *[1] * (x.dim() - 1))
        else:
            radius = check_eps(eps)
        lower, upper = x - radius, x + radius
        if data_range is not None:
            lo, hi = data_range
            least, most = torch.aminmax(x) if len(x) else (lo, hi)  # NaN comes through
            if not (float(least) >= lo and float(most) <= hi):
                raise RegionError(
                    f"the images leave the pixel range [{lo:g}, {hi:g}] or are not finite; scale "
                    "them (normalisation belongs into the model) or pass data_range=None"
                )
            lower, upper = lower.clamp_(min=lo), upper.clamp_(max=hi)
        return cls(lower, upper)

    @property
    def center(self) -> Tensor:
        """Midpoint ``(lower + upper) / 2``, shape ``(B, *shape)``."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half width ``(upper - lower) / 2``, shape ``(B, *shape)``."""
        return (self.upper - self.lower) / 2

    def check(self) -> Box:
        """Return the box itself after checking that it is finite and not empty."""
        if not bool((self.lower <= self.upper).all()):  # also false for NaN
            raise RegionError("a box has a lower end above its upper end, or holds NaN")
        if not bool(torch.isfinite(self.lower).all() and torch.isfinite(self.upper).all()):
            raise RegionError("a box has an infinite end; every pixel needs finite bounds")
        return self

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


def check_eps(eps: float) -> float:
    """Return ``eps`` as a float, or raise :class:`RegionError` when it is no radius."""
    value = float(eps)
    if not math.isfinite(value) or value < 0:
        raise RegionError(f"eps must be a finite number >= 0 in pixel units of [0, 1]; got {eps}")
    return value
