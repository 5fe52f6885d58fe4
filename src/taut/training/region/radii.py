"""Several radii at once: robustness over the whole range up to eps (GRT, GM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import torch

from taut.errors import ConfigError
from taut.training.progress import Progress
from taut.training.region.base import Batch, Region, WeightedBox
from taut.training.region.full_ball import FullBall

Family = Literal[
    "inverse-sqrt", "inverse", "inverse-square", "inverse-log", "constant", "increasing", "random"
]
"""Names of the weight families."""

_FORMULAS: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "inverse-sqrt": lambda i, count: 1.0 / math.sqrt(i),
        "inverse": lambda i, count: 1.0 / i,
        "inverse-square": lambda i, count: 1.0 / i**2,
        "inverse-log": lambda i, count: 1.0 / math.log(i + 1),
        "constant": lambda i, count: 1.0 / count,
        "increasing": lambda i, count: 1.0 / (count - i + 1),
    }
)
"""The weight of radius i of N, both from 1, as it is printed."""


@dataclass(frozen=True)
class Radii:
    r"""N radii in equal steps up to eps, each with a weight of its own.

    .. math:: r_i = \frac{i}{N}\, \varepsilon, \quad i = 1 \dots N, \qquad
              L_\text{rob} = \sum_i c_i\, L(r_i)

    Every radius costs what the whole ball costs. With N = 1 the one weight is 1 and the set is
    that of ``inner``, so the method is the one it is built on.

    ================== ================= =====================================================
    family             weight            note
    ================== ================= =====================================================
    ``inverse-sqrt``   1 / sqrt(i)       with ``inverse-log`` the best in the paper
    ``inverse``        1 / i             the paper's monotonically decreasing weights
    ``inverse-square`` 1 / i^2
    ``inverse-log``    1 / ln(i + 1)
    ``constant``       1 / N             global robustness training (GRT)
    ``increasing``     1 / (N - i + 1)   mirror image of ``inverse``; printed as 1 / (N - i),
                                         which is infinite at N
    ``random``         uniform in (0, 1] drawn once from ``seed``
    ================== ================= =====================================================

    Parameters
    ----------
    count
        N, the number of radii.
    weights
        The family.
    normalise
        Divide the weights by their sum, so that they change nothing in the balance of natural
        and robust loss. Off, they are taken as printed, and the robust loss of N = 10 weighs up
        to 6.6 times as much.
    seed
        Of the ``random`` weights.
    inner
        The region that is asked for the set of each radius.

    Raises
    ------
    ConfigError
        For a count below 1, or an unknown family.

    References
    ----------
    Liang et al., *Towards robust neural networks via a global and monotonically decreasing
    robustness training strategy* (2023), Sec. 3 and Fig. 4.

    """

    count: int = 10
    weights: Family = "inverse-sqrt"
    normalise: bool = True
    seed: int = 0
    inner: Region = field(default_factory=FullBall)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"method.count must be at least 1 radius; got {self.count}")
        if self.weights not in get_args(Family):
            known = ", ".join(get_args(Family))
            raise ConfigError(f"method.weights must be one of {known}; got {self.weights!r}")

    def coefficients(self) -> tuple[float, ...]:
        """Return the weights of the radii, the smallest first."""
        if self.weights == "random":
            drawn = torch.rand(
                self.count,
                generator=torch.Generator().manual_seed(self.seed),
                dtype=torch.float64,
            )
            found = [1.0 - value for value in drawn.tolist()]
        else:
            formula = _FORMULAS[self.weights]
            found = [formula(i, self.count) for i in range(1, self.count + 1)]
        total = math.fsum(found) if self.normalise else 1.0
        return tuple(value / total for value in found)

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the sets of all radii, the smallest first."""
        found = []
        for i, weight in enumerate(self.coefficients(), start=1):
            radius = eps if i == self.count else eps * i / self.count
            for box, share, node in self.inner.boxes(batch, radius, progress):
                found.append(WeightedBox(box, weight if share == 1.0 else weight * share, node))
        return found
