"""What a bound is: margins over an input set, and the loss they allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from taut.bounds import Intermediate
from taut.errors import ConfigError
from taut.graph import Network
from taut.region import Box
from taut.training.progress import Progress


@dataclass(frozen=True, eq=False)
class Bounded:
    """A batch's robust loss over one input set, and what it was computed from.

    Parameters
    ----------
    losses
        Upper bounds of the cross-entropy on the set, one per image, ``(B,)``.
    margins
        Lower bounds of the margins ``(B, K)``, +inf at the true class.
    intermediate
        Interval bounds of every layer on this very set, for regularisers.
    sound
        Whether losses and margins hold at every point of the set. Some training methods give
        that up for a closer estimate; what they call bounds then proves nothing.

    """

    losses: Tensor
    margins: Tensor
    intermediate: Intermediate
    sound: bool = True


class Bound(Protocol):
    """A rule that bounds the margins over a box."""

    @property
    def certifiers(self) -> tuple[str, ...]:
        """Names of the bounding methods that networks trained with this bound need."""
        ...

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound the loss of labels ``y`` on ``box``, with gradients to the parameters."""
        ...


def share(name: str, value: float) -> float:
    """Return ``value``, or raise :class:`ConfigError` when it is no number in [0, 1]."""
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ConfigError(f"{name} must lie in [0, 1]; got {value:g}")
    return value
