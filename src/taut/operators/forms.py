"""What an operator maps besides points: intervals, lines and rows of a linear form.

All of them are values: frozen, batch first, and never stored in a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bounds:
    """Element-wise bounds ``lower <= z <= upper``, both of shape ``(B, *shape)``."""

    lower: Tensor
    upper: Tensor

    @property
    def unstable(self) -> Tensor:
        """Where zero lies strictly inside, ``lower < 0 < upper``; a boolean tensor."""
        return (self.lower < 0) & (self.upper > 0)

    def intersect(self, other: Bounds) -> Bounds:
        """Return the element-wise better of two valid bounds."""
        return Bounds(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    def __getitem__(self, index: Tensor | slice) -> Bounds:
        return Bounds(self.lower[index], self.upper[index])


@dataclass(frozen=True, eq=False)
class Interval:
    """An interval in midpoint form, ``|z - center| <= radius``, shapes ``(B, *shape)``.

    Affine operators map it with two products, ``W center + b`` and ``|W| radius``.
    """

    center: Tensor
    radius: Tensor

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Interval:
        """Return the midpoint form of ``[lower, upper]``."""
        center = torch.lerp(lower, upper, 0.5)
        return cls(center, upper - center)

    @property
    def bounds(self) -> Bounds:
        """The ends ``center - radius`` and ``center + radius``."""
        return Bounds(self.center - self.radius, self.center + self.radius)


@dataclass(frozen=True, eq=False)
class Lines:
    r"""Two lines that enclose an activation on an interval.

    .. math:: s_L z + t_L \le \sigma(z) \le s_U z + t_U \quad\text{for } z \in [l, u]

    Each field has the shape of ``z``; an intercept that is zero everywhere is ``None``.
    Where the activation takes one axis of ``z`` together (a maximum over it), the lines are
    :math:`\sum_i s_i z_i + t` along that axis and the intercepts lack it.
    """

    lower_slope: Tensor
    lower_intercept: Tensor | None
    upper_slope: Tensor
    upper_intercept: Tensor | None

    def __getitem__(self, index: Tensor) -> Lines:
        low, high = self.lower_intercept, self.upper_intercept
        return Lines(
            self.lower_slope[index],
            None if low is None else low[index],
            self.upper_slope[index],
            None if high is None else high[index],
        )


LINES = ("constant", "tight", "adaptive", "zero", "one", "same-slope")
"""Names of the line families every activation offers.

``constant``
    IBP's horizontal lines at the extreme values.
``tight``
    Lines that dominate the constant ones everywhere, so that a bound with them is never
    below IBP's (Lyu et al. 2021).
``adaptive``
    The smaller area between the lines (CROWN, DeepPoly).
``zero``, ``one``
    The two ends of the free slopes: with ``zero`` a bend is passed with the smallest slope
    of a sound line, with ``one`` with the largest useful one. Every mix of the two is sound,
    line by line; optimised bounds choose the mix. For ReLU these are 0 and z below the chord.
``same-slope``
    Two parallel lines, the least distance apart that the slope of the chord allows (Fast-Lin,
    Wong and Kolter; the zonotope's transformer).
"""


def unknown(kind: str) -> ValueError:
    """Return the error for a family of lines that no activation offers."""
    return ValueError(f"unknown lines {kind!r}")
