"""Small boxes around adversarial points (SABR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from taut.errors import ConfigError
from taut.region import Box
from taut.training.attack import TrainingAttack
from taut.training.progress import Progress
from taut.training.region.base import Batch, Region, WeightedBox, of_pixels, widest
from taut.training.region.full_ball import FullBall

Radius = Literal["per-dimension", "scalar"]
"""How the size of a small box is measured."""


@dataclass(frozen=True)
class SmallBox:
    r"""A box of a fraction of the size, around a point that an attack finds.

    .. math::
        \tau_i = \lambda\, \frac{u_i - l_i}{2}, \qquad
        x'_i = \mathrm{clip}(x^*_i,\ l_i + \tau_i,\ u_i - \tau_i), \qquad
        [x' - \tau,\ x' + \tau] \subseteq [l, u]

    with the bounded set [l, u] of ``inner`` and the point :math:`x^*` of a PGD attack in it.
    What is bounded is a part of the ball only: the loss is no upper bound of that over the
    ball, and a network trained so needs a precise verifier. With a ratio towards 0 it becomes
    PGD training; with 1 it is ``inner``, bit for bit and without an attack.

    Where ``inner`` gives several sets, the widest is attacked, once, and the point is moved
    into each. The network attacked is that of evaluation mode.

    Parameters
    ----------
    ratio
        :math:`\lambda` in (0, 1], the paper's 0.1 to 0.7 by setting.
    attack
        Its steps are in half widths of the set that is attacked. Its scale is of no use here.
    radius
        ``per-dimension``, as above. ``scalar`` is the published code: one
        :math:`\tau = \lambda \varepsilon` for all pixels, the upper limit winning where the two
        of the clip cross (the ball is cut at 0 or 1 and the ratio above one half), and the box
        cut with [l, u], so that it stays inside. It needs an ``inner`` region of one set.
    inner
        The region whose sets are made smaller.

    Raises
    ------
    ConfigError
        For a ratio outside (0, 1], an unknown radius, an attack with a scale, or a scalar radius
        with several sets.

    References
    ----------
    Müller et al., *Certified training: small boxes are all you need* (2023), Sec. 3.

    """

    ratio: float = 0.4
    attack: TrainingAttack = field(
        default_factory=lambda: TrainingAttack(steps=8, step=0.5, milestones=(4, 7))
    )
    radius: Radius = "per-dimension"
    inner: Region = field(default_factory=FullBall)

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"method.ratio must lie in (0, 1]; got {self.ratio}")
        if self.radius not in get_args(Radius):
            known = ", ".join(get_args(Radius))
            raise ConfigError(f"method.radius must be one of {known}; got {self.radius!r}")
        if self.attack.scale != 1.0:
            raise ConfigError(
                "method.attack.scale must be 1 with small boxes, which lie in the set that is "
                f"attacked; got {self.attack.scale}"
            )

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the small box in each set of ``inner``, with its weight."""
        sets = of_pixels(self.inner.boxes(batch, eps, progress), "small-box")
        if self.radius == "scalar" and len(sets) > 1:
            raise ConfigError(
                'method.radius = "scalar" needs an inner region of one set; with several choose '
                '"per-dimension"'
            )
        if self.ratio == 1.0:
            return sets
        point = self.attack.points(batch, widest(sets), progress)
        return [
            WeightedBox(around(point, each.box, self._tau(each.box, eps)), each.weight)
            for each in sets
        ]

    def _tau(self, box: Box, eps: float) -> Tensor:
        """Return the radius of the small box in ``box``."""
        if self.radius == "scalar":
            return torch.full_like(box.lower, self.ratio * eps)
        return self.ratio * box.radius


def around(point: Tensor, box: Box, tau: Tensor) -> Box:
    """Return the box of radius ``tau`` near ``point``, moved inside ``box``."""
    lower, upper = box.lower, box.upper
    middle = torch.minimum(torch.maximum(point, lower + tau), upper - tau)
    # by rounding an end may lie outside by its last bit
    return Box(torch.maximum(middle - tau, lower), torch.minimum(middle + tau, upper))
