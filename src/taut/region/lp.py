"""Balls in l_1 and l_2, alone or cut by a box."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import RegionError
from taut.region import support
from taut.region.base import (
    PIXELS,
    check_range,
    check_rows,
    flat_points,
    flat_rows,
    radius_like,
)
from taut.region.box import Box

_HALVINGS = 100


@dataclass(frozen=True, eq=False)
class LpBall:
    r"""An l_1 or l_2 ball per image, within a box where one is given.

    .. math::
        \Big\{x : \sum_i \Big|\frac{x_i - x_{0i}}{r_i}\Big|^p \le 1\Big\}
        \cap [\text{lower}, \text{upper}]

    With the same radius everywhere it is :math:`\|x - x_0\|_p \le r`. A pixel with radius 0
    stays at its value. Build one with :meth:`around`; the l_inf ball is a :class:`taut.Box`.

    Parameters
    ----------
    center
        Midpoints x0, shape ``(B, *shape)``.
    radius
        Radii r, one per pixel, shape ``(B, *shape)``, not negative.
    p
        Order of the norm, 1 or 2.
    bounds
        The box that cuts the ball, holding every midpoint; None leaves the ball whole.

    Raises
    ------
    RegionError
        When shapes, types or devices differ, or p is neither 1 nor 2.

    """

    exact_box: ClassVar[bool] = False

    center: Tensor
    radius: Tensor
    p: float
    bounds: Box | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise RegionError(f"a ball has p = 1 or p = 2, and l_inf balls are boxes; got {self.p}")
        x, parts = self.center, [self.radius]
        if self.bounds is not None:
            parts += [self.bounds.lower]
        for part in parts:
            if part.shape != x.shape or x.dim() < 2:
                raise RegionError(
                    "a ball needs a center, radii and bounds of one shape (batch, ...); "
                    f"got {tuple(x.shape)} and {tuple(part.shape)}"
                )
            if part.dtype != x.dtype or part.device != x.device or not x.is_floating_point():
                raise RegionError(
                    "a ball needs floating-point tensors of one type on one device; "
                    f"got {x.dtype} on {x.device} and {part.dtype} on {part.device}"
                )

    @classmethod
    def around(
        cls,
        x: Tensor,
        eps: float | Tensor,
        p: float | str,
        data_range: tuple[float, float] | None = PIXELS,
    ) -> LpBall | Box:
        r"""Return the l_p ball of radius ``eps`` around ``x``, cut to the pixel range.

        .. math:: \{x' : \|x' - x\|_p \le \varepsilon,\ lo \le x' \le hi\}

        Parameters
        ----------
        x
            Images, shape ``(B, *shape)``, raw pixels.
        eps
            Radius in pixel units of [0, 1]: a number, one per image ``(B,)``, or one per
            pixel (any shape that broadcasts to ``x``), which weighs the norm:
            :math:`\sum_i |(x'_i - x_i)/\varepsilon_i|^p \le 1`.
        p
            1, 2 or inf (a number or its name). For inf the result is
            ``Box.around(x, eps, data_range)``, the same set.
        data_range
            Pixel range; ``None`` leaves the ball whole.

        Raises
        ------
        RegionError
            When p is another number, ``eps`` is negative, NaN, infinite or of a shape that
            does not fit, or ``x`` leaves the pixel range.

        """
        order = _order(p)
        if math.isinf(order):
            return Box.around(x, eps, data_range)
        radius = torch.as_tensor(radius_like(x, eps), dtype=x.dtype, device=x.device).expand_as(x)
        if data_range is None:
            return cls(x, radius, order)
        check_range(x, data_range)
        lo, hi = (x.new_tensor(end).expand_as(x) for end in data_range)
        return cls(x, radius, order, Box(lo, hi))

    @property
    def box(self) -> Box:
        """The smallest enclosing box, ``[x0 - r, x0 + r]`` within the bounds."""
        lower, upper = self.center - self.radius, self.center + self.radius
        if self.bounds is None:
            return Box(lower, upper)
        return Box(torch.maximum(lower, self.bounds.lower), torch.minimum(upper, self.bounds.upper))

    @property
    def shape(self) -> torch.Size:
        """Shape of a batch of points, ``(B, *shape)``."""
        return self.center.shape

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the tensors."""
        return self.center.dtype

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.center.device

    def check(self) -> LpBall:
        """Return the ball itself after checking radii, midpoints and bounds."""
        if not bool(torch.isfinite(self.center).all()):
            raise RegionError("a ball has a center that is not finite; check the images")
        if not bool((torch.isfinite(self.radius) & (self.radius >= 0)).all()):
            raise RegionError("a ball has a radius that is negative or not finite; check eps")
        if self.bounds is not None and not bool(self.bounds.check().contains(self.center).all()):
            raise RegionError("a ball has its center outside its bounds; move one of them")
        return self

    def minimum(self, rows: Tensor) -> Tensor:
        r"""Return the exact minimum of linear forms over the set, shape ``(B, R)``.

        Without bounds, with :math:`1/p + 1/q = 1`,

        .. math:: \min_x a x = a x_0 - \|r \odot a\|_q .

        With bounds the maximum of the Lagrangian dual, found by a sort (l_1) or a search
        for the multiplier (l_2), see :mod:`taut.region.support`. Rounding aside, the value
        is never above the true minimum. Gradients flow to ``rows`` alone.

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
        with torch.no_grad():
            ball = self._flat()
        return support.minimum(flat_rows(rows), ball)

    def _flat(self) -> support.Ball:
        """Return the ball with its pixels in one axis, and the room towards its bounds."""
        center, radius = flat_points(self.center), flat_points(self.radius)
        if self.bounds is None:
            return support.Ball(self.p, center, radius, None, None)
        unit = radius.clamp(min=torch.finfo(radius.dtype).tiny)
        down = (center - flat_points(self.bounds.lower)).div_(unit).clamp_(0, 1)
        up = (flat_points(self.bounds.upper) - center).div_(unit).clamp_(0, 1)
        return support.Ball(self.p, center, radius, down, up)

    def each(self, function: Callable[[Tensor], Tensor]) -> LpBall:
        """Return the ball with ``function`` applied to every per-pixel tensor.

        The window of a ball is the ball of the window's pixels. A pixel at which the
        function gives 0 has center 0 and radius 0: it stays at 0 and adds nothing.
        """
        bounds = None if self.bounds is None else self.bounds.each(function)
        return LpBall(function(self.center), function(self.radius), self.p, bounds)

    def contains(self, x: Tensor) -> Tensor:
        """Tell for each image whether ``x`` lies in its set; a boolean ``(B,)``.

        The norm is computed in float64 and compared without tolerance.
        """
        center, radius = self.center.double(), self.radius.double()
        inside = _power(x.double() - center, radius, self.p) <= 1
        return inside if self.bounds is None else inside & self.bounds.contains(x)

    def project(self, x: Tensor) -> Tensor:
        r"""Return the nearest point of the set in l_2, for p = 1 and p = 2, with or without bounds.

        With :math:`\delta = x - x_0` and a multiplier :math:`\mu \ge 0`, found by bisection,
        the point is :math:`x_0 + d` clipped to the bounds, where

        .. math::
            \text{l}_2:\ d_i = \frac{\delta_i}{1 + \mu / r_i^2}, \qquad
            \text{l}_1:\ d_i = \operatorname{sign}(\delta_i)\,(|\delta_i| - \mu / r_i)^+ .

        The result is rounded towards the center, so that :meth:`contains` holds for it.
        """
        center, radius = self.center.double(), self.radius.double()
        wanted = x.double() - center
        cap = wanted if self.bounds is None else self.bounds.project(x).double() - center
        moved = _nearest(wanted, cap.abs(), radius, self.p)
        point = (center + moved).to(self.dtype)
        beyond = (point.double() - center).abs() > moved.abs()
        point = torch.where(beyond, torch.nextafter(point, self.center), point)
        return point if self.bounds is None else self.bounds.project(point)

    def __len__(self) -> int:
        return self.center.shape[0]

    def __getitem__(self, index: Tensor | slice) -> LpBall:
        bounds = None if self.bounds is None else self.bounds[index]
        return LpBall(self.center[index], self.radius[index], self.p, bounds)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> LpBall:
        """Return the ball on another device or in another precision."""
        return LpBall(
            self.center.to(device=device, dtype=dtype),
            self.radius.to(device=device, dtype=dtype),
            self.p,
            None if self.bounds is None else self.bounds.to(device, dtype),
        )


def _order(p: float | str) -> float:
    """Return the order of a norm as a number: 1, 2 or inf."""
    try:
        value = float(p)
    except ValueError:
        value = math.nan
    if value not in (1, 2, math.inf):
        raise RegionError(f"p must be 1, 2 or inf; got {p!r}")
    return value


def _power(moved: Tensor, radius: Tensor, p: float) -> Tensor:
    r"""Return :math:`\sum_i |d_i / r_i|^p` of displacements ``(B, *shape)``, shape ``(B,)``."""
    stuck = torch.where(moved == 0, 0.0, torch.inf).to(moved)
    units = torch.where(radius > 0, moved.abs() / radius, stuck).flatten(1)
    return units.sum(1) if p == 1 else units.square().sum(1)


def _nearest(wanted: Tensor, cap: Tensor, radius: Tensor, p: float) -> Tensor:
    r"""Return the displacement of the set nearest to ``wanted``, all ``(B, *shape)``, float64.

    ``cap`` is the most a pixel may move towards its wish. A number t in [0, 1] an image
    stands for the multiplier, :math:`\mu = \rho^2 (1/t - 1)` for l_2 with the largest
    radius :math:`\rho`, and :math:`\mu = (1 - t) \max_i |\delta_i| r_i` for l_1. The norm
    grows with t; bisection ends on the last t that is inside.
    """
    size = wanted.abs()
    images = (-1, *[1] * (wanted.dim() - 1))

    def moved(t: Tensor) -> Tensor:
        t = t.view(images)
        if p == 1:
            most = (size * radius).flatten(1).amax(1).view(images)
            step = (size - most * (1 - t) / radius).clamp_(min=0)
        else:
            weight = (radius / radius.flatten(1).amax(1).view(images)).square()
            step = size * (weight * t / (weight * t + 1 - t))
        return torch.where(radius > 0, torch.minimum(step, cap), 0.0)

    high = torch.ones_like(wanted.flatten(1)[:, 0])
    low = (_power(moved(high), radius, p) <= 1).to(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        inside = _power(moved(middle), radius, p) <= 1
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return moved(low) * wanted.sign()
