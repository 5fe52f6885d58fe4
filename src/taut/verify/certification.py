"""The outcome of a certification: verdicts, accuracies, counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taut.errors import DataError
from taut.verify.verdict import Status, Verdict

_NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    r"""Return the 95 % interval of a share seen ``successes`` times in ``total`` images.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Source: Wilson, *Probable inference, the law of succession, and statistical inference*, 1927.

    Raises
    ------
    DataError
        ``total`` is zero, or ``successes`` is no count of it.
    """
    if total < 1 or not 0 <= successes <= total:
        raise DataError(f"{successes} of {total} images is no share; it takes at least one image")
    z, share = _NORMAL_975, successes / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half = z * spread / (1 + z * z / total)
    # At the ends the formula is exactly 0 and 1; rounding must not move them off.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == total else min(1.0, center + half)
    return low, high


@dataclass(frozen=True)
class Certification:
    """The verdicts on a set of images.

    Accuracies are shares of *all* images of the set, and by construction natural >= attacked
    >= certified.

    Attributes
    ----------
    verdicts
        One per image, in the order of the images.
    eps
        Radius in pixel units of [0, 1].
    seconds
        Wall time of the certification.
    stages
        The stages it went through, in order; :meth:`by_stage` lists them all.
    """

    verdicts: tuple[Verdict, ...]
    eps: float
    seconds: float
    stages: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.verdicts)

    @property
    def natural_accuracy(self) -> float:
        """Share of images that are classified correctly as they are."""
        return self._share(lambda v: v.predicted == v.label)

    @property
    def attacked_accuracy(self) -> float:
        """Share of images that are neither misclassified nor broken by a counterexample."""
        return self._share(lambda v: v.predicted == v.label and v.status != Status.FALSIFIED)

    @property
    def certified_accuracy(self) -> float:
        """Share of images that are verified."""
        return self._share(lambda v: v.status == Status.VERIFIED)

    @property
    def certified_interval(self) -> tuple[float, float]:
        """Binomial 95 % interval of the certified accuracy (Wilson)."""
        verified = sum(v.status == Status.VERIFIED for v in self.verdicts)
        return wilson_interval(verified, self.images)

    def by_stage(self) -> dict[str, dict[str, int]]:
        """Return ``{stage: {"verified": n, "falsified": n, "unknown": n}}``; it sums to N."""
        names = dict.fromkeys((*self.stages, *(v.stage for v in self.verdicts)))
        counts = {name: {status.value: 0 for status in Status} for name in names}
        for verdict in self.verdicts:
            counts[verdict.stage][verdict.status.value] += 1
        return counts

    def unknown(self) -> dict[str, int]:
        """Return how many images stayed undecided, by reason."""
        return dict(Counter(v.reason for v in self.verdicts if v.status == Status.UNKNOWN))

    def parts(self) -> dict[str, int]:
        """Return the sub-problems that complete verifiers bounded: ``total`` and ``largest``."""
        counts = [v.parts for v in self.verdicts]
        return {"total": sum(counts), "largest": max(counts, default=0)}

    def summary(self) -> dict[str, Any]:
        """Return the figures as ``summary.json`` has them."""
        return {
            "natural_accuracy": self.natural_accuracy,
            "attacked_accuracy": self.attacked_accuracy,
            "certified_accuracy": self.certified_accuracy,
            "certified_interval": list(self.certified_interval),
            "images": self.images,
            "eps": self.eps,
            "seconds": self.seconds,
            "verdicts": self.by_stage(),
            "unknown": self.unknown(),
            "parts": self.parts(),
        }

    def _share(self, holds: Callable[[Verdict], bool]) -> float:
        if not self.verdicts:
            raise DataError("no image was certified, so there is no accuracy; give at least one")
        return sum(map(holds, self.verdicts)) / len(self.verdicts)
