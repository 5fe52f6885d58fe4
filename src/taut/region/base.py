"""What every input set offers, and what all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from taut.errors import RegionError

if TYPE_CHECKING:
    from taut.region.box import Box

PIXELS = (0.0, 1.0)
"""The pixel range every data set of taut uses."""


class Region(Protocol):
    """A convex set of inputs per image of a batch; N sets of shape ``(*shape)``.

    Bounding methods ask for two things only: the smallest enclosing ``box`` for what
    they propagate forward, and the exact ``minimum`` of linear forms for what they pull
    back to the input.
    """

    @property
    def box(self) -> Box:
        """The smallest enclosing box; of a box the box itself."""
        ...

    @property
    def exact_box(self) -> bool:
        """Whether the set is a box, so that nothing is lost by ``box``."""
        ...

    @property
    def center(self) -> Tensor:
        """A point of each set, shape ``(N, *shape)``."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Shape of a batch of points, ``(N, *shape)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the set's tensors."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the set's tensors."""
        ...

    def minimum(self, rows: Tensor) -> Tensor:
        r"""Return the exact minimum of linear forms over the set, shape ``(N, R)``.

        .. math:: \min_{x \in S_n} \sum_i a_{nri} x_i

        ``rows`` holds the coefficients a, ``(N, R, *shape)``. Gradients flow to them: the
        gradient is a minimiser (Danskin).
        """
        ...

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the set with ``function`` applied to every per-pixel tensor ``(N, *shape)``.

        For functions that choose pixels, such as cutting a window out of each image. The
        result is the set of the chosen pixels. A pixel at which the function gives 0 for
        every tensor (a window that sticks out of the image) is the fixed value 0: it adds
        nothing to ``minimum``, whatever its coefficient.
        """
        ...

    def contains(self, x: Tensor) -> Tensor:
        """Tell for each point of ``x`` whether it lies in its set; a boolean ``(N,)``."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """Return the point of each set that is nearest to ``x`` in l_2."""
        ...

    def check(self) -> Self:
        """Return the set itself after checking that its tensors are finite and it is not empty."""
        ...

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Return the set on another device or in another precision."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice) -> Self: ...


def check_eps(eps: float) -> float:
    """Return ``eps`` as a float, or raise :class:`RegionError` when it is no radius."""
    value = float(eps)
    if not math.isfinite(value) or value < 0:
        raise RegionError(f"eps must be a finite number >= 0 in pixel units of [0, 1]; got {eps}")
    return value


def radius_like(x: Tensor, eps: float | Tensor) -> float | Tensor:
    """Return ``eps`` so that it broadcasts to ``x``: a number, ``(B,)``, or one per pixel.

    Raises :class:`RegionError` when it is negative, NaN or infinite, or of another shape.
    """
    if not isinstance(eps, Tensor):
        return check_eps(eps)
    if not bool(torch.isfinite(eps).all()) or bool((eps < 0).any()):
        raise RegionError("eps must be finite and not negative; give it in pixel units")
    if eps.dim() == 1 and x.dim() > 1 and eps.shape[0] == x.shape[0]:
        return eps.to(x).view(-1, *[1] * (x.dim() - 1))
    extra = x.dim() - eps.dim()
    fits = (have in (1, want) for have, want in zip(eps.shape, x.shape[extra:], strict=True))
    if extra < 0 or not all(fits):
        raise RegionError(
            f"eps of shape {tuple(eps.shape)} does not fit images {tuple(x.shape)}; give a "
            "number, one per image, or one per pixel"
        )
    return eps.to(x)


def check_range(x: Tensor, data_range: tuple[float, float]) -> None:
    """Raise :class:`RegionError` unless every pixel of ``x`` lies in ``data_range``."""
    lo, hi = data_range
    least, most = torch.aminmax(x) if len(x) else (lo, hi)  # NaN comes through
    if not (float(least) >= lo and float(most) <= hi):
        raise RegionError(
            f"the images leave the pixel range [{lo:g}, {hi:g}] or are not finite; scale "
            "them (normalisation belongs into the model) or pass data_range=None"
        )


def check_rows(rows: Tensor, shape: torch.Size) -> None:
    """Raise :class:`RegionError` unless ``rows`` is ``(N, R, *shape)`` for ``(N, *shape)``."""
    if rows.dim() != len(shape) + 1 or rows.shape[:1] + rows.shape[2:] != shape:
        raise RegionError(
            f"rows over a region of shape {tuple(shape)} need the shape "
            f"({shape[0]}, R, {', '.join(map(str, shape[1:]))}); got {tuple(rows.shape)}"
        )


def flat_rows(rows: Tensor) -> Tensor:
    """Return ``(N, R, *shape)`` as ``(N, R, pixels)``, in the order of :func:`flat_points`."""
    if rows.dim() == 5:  # coefficients of images lie channels-last; walk them in that order
        rows = rows.permute(0, 1, 3, 4, 2)
    return rows.flatten(2)


def flat_points(x: Tensor) -> Tensor:
    """Return ``(N, *shape)`` as ``(N, pixels)``, in the order of :func:`flat_rows`."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).flatten(1)


def dot(rows: Tensor, points: Tensor) -> Tensor:
    """Return each row times its point: ``(N, R, pixels)`` and ``(N, pixels)`` to ``(N, R)``."""
    return torch.bmm(rows, points.unsqueeze(2)).squeeze(2)
