"""The whole ball: what plain certified training bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taut.region import PIXELS, Box
from taut.training.progress import Progress
from taut.training.region.base import Batch, WeightedBox


@dataclass(frozen=True)
class FullBall:
    r"""The whole l_inf ball, :math:`[x-\varepsilon, x+\varepsilon]`, with weight 1.

    Parameters
    ----------
    clip
        Cut the ball to the pixel range [0, 1]. Most published codes do; the small and medium
        CIFAR-10 configurations of the CROWN-IBP code do not.

    """

    clip: bool = True

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the ball around each image."""
        return (WeightedBox(Box.around(batch.x, eps, PIXELS if self.clip else None), 1.0),)
