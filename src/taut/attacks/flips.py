"""Flips: an attack that moves pixels from one end of their box to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.attacks.loop import Attack, Run
from taut.errors import ConfigError

_FALL = 0.5
"""What the share of pixels flipped falls by after a try that was no better."""


@dataclass(frozen=True, kw_only=True)
class Flips(Attack):
    r"""A local search over the corners of the box, led by the gradient at the best point.

    .. math:: g_i = \frac{\partial L}{\partial x_i}(x^*)\,(e_i - x^*_i), \qquad
              e_i \in \{l_i, u_i\}\ \text{where the gradient points}

    Each try takes the best point :math:`x^*` of the run so far and moves some of the pixels
    with a gain :math:`g_i > 0` to their ends: at first all of them, and half as many as before
    after each try that was no better. They are drawn at random in favour of high gains: the
    largest :math:`g_i \omega_i`, with :math:`\omega_i` uniform in [0, 1). When less than one pixel
    would be left, half of them are flipped again; where the gradient vanishes, a random corner is
    tried. A run begins at a random corner.

    It is meant for networks that read the cells of a grid (``taut.models.Cells``), where a
    pixel that straddles an edge has two values and nothing between. The gradient there is
    the straight-through one. Every iterate is an image in the box, so what it breaks is broken for
    the whole pipeline. Small steps are of no use where the network jumps; on networks without cells
    choose :class:`~taut.attacks.PGD`. Corners leave out the cells between the two ends where
    a box meets three or more.

    Attributes
    ----------
    steps
        Tries per run; steps + 1 points are checked.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    steps: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")

    def sizes(self) -> tuple[float, ...]:
        """Return what a flip moves a pixel by, for every try: two half widths of the box."""
        return (2.0,) * self.steps

    def begin(self, noise: Tensor) -> Tensor:
        """Return a random corner."""
        return noise.round()

    def move(
        self, run: Run, climbed: Tensor, gradient: Tensor, size: float, noise: Callable[[], Tensor]
    ) -> Run:
        """Return the run with some pixels of its best points flipped."""
        memory = _renewed(run, climbed, gradient)
        best, slope, share = memory["point"], memory["slope"], memory["share"]
        end = torch.where(slope > 0, run.upper, run.lower)
        gain = (slope * (end - best)).nan_to_num_(0.0).flatten(1)
        most = (gain > 0).sum(1)
        memory["share"] = share = torch.where(share * most < 1, _FALL, share)
        count = (share * most).ceil().long().clamp(min=1)
        drawn = noise()
        score = gain * drawn.flatten(1)
        last = score.sort(1, descending=True).values.gather(1, count[:, None] - 1)
        flipped = (score >= last) & (gain > 0)
        point = torch.where(flipped.view_as(best), end, best)
        corner = torch.where(drawn < 0.5, run.lower, run.upper)
        point = torch.where(_aside(most == 0, point), corner, point)
        return run._replace(point=point, memory=memory)


def _renewed(run: Run, climbed: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the best point of each image's run, its value and gradient, and the share to flip."""
    old = run.memory
    if not old:
        share = torch.ones_like(climbed)
        return {"point": run.point, "value": climbed, "slope": gradient, "share": share}
    better = ~(climbed <= old["value"])  # anything is better than NaN
    now = _aside(better, gradient)
    return {
        "point": torch.where(now, run.point, old["point"]),
        "value": torch.where(better, climbed, old["value"]),
        "slope": torch.where(now, gradient, old["slope"]),
        "share": torch.where(better, old["share"], _FALL * old["share"]),
    }


def _aside(flags: Tensor, like: Tensor) -> Tensor:
    """Return flags ``(b,)`` so that they broadcast to ``like``, ``(b, ...)``."""
    return flags.view(-1, *[1] * (like.dim() - 1))
