r"""Activations made of straight pieces: sound lines for any slope.

A line of slope :math:`k` lies below :math:`f` on :math:`[l, u]` when its intercept is at most
the minimum of :math:`f(z) - kz`, and above when it is at least the maximum. Between two knees
that difference is straight, so both are reached at ``l``, ``u`` or a knee inside: a family of
lines has only slopes to choose, and rounding of a slope never costs soundness.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from taut.operators.base import Activation
from taut.operators.forms import Bounds, Lines


class PiecewiseLinear(Activation):
    """A continuous function of straight pieces."""

    @abstractmethod
    def knees(self, like: Tensor) -> Sequence[Tensor]:
        """Return where pieces meet, each broadcastable to ``like`` and of its type."""

    def enclose(self, bounds: Bounds, lower_slope: Tensor, upper_slope: Tensor) -> Lines:
        r"""Return the closest lines of the slopes given.

        .. math:: t_L = \min_z f(z) - s_L z, \qquad t_U = \max_z f(z) - s_U z

        over the ends of the interval and the knees inside. Slopes ``(B, *shape)``, any sign.
        """
        low, high = bounds.lower, bounds.upper
        inside = [knee.expand_as(low).clamp(low, high) for knee in self.knees(low)]
        spots = [(z, self.forward(z)) for z in (low, high, *inside)]
        below = [value - lower_slope * z for z, value in spots]
        above = [value - upper_slope * z for z, value in spots]
        return Lines(
            lower_slope, reduce(torch.minimum, below), upper_slope, reduce(torch.maximum, above)
        )
