"""A verdict on one image, and the one function through which it leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor

from taut.verify.replay import Replay

NO_PREDICTION = -1
"""``Verdict.predicted`` where the logits are not finite or could not be computed."""


class Status(StrEnum):
    """What is known about an image and its region."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Verdict:
    """What was decided about one image, by which stage and why.

    Attributes
    ----------
    index
        Position of the image in its split.
    label
        The true class.
    predicted
        Class of the image itself; -1 where its logits are not finite or did not fit in memory.
    status
        Verified: every point of the region has the label. Falsified: a point of it has not.
    stage
        Who decided; for ``unknown`` the last stage tried.
    reason
        "" when verified; "misclassified" or "counterexample" when falsified; else
        "stages exhausted", "timeout", "hopeless" (bounds rose too slowly), "memory",
        "worker" (the processes that worked on it died), "nan" (a bound or logit was not finite),
        "not replayed" (a counterexample did not reproduce in float64 and float32), or
        "contradiction" (a lower bound exceeded the margin of the image itself).
    margin
        Verified and unknown: the largest lower bound proved for the smallest margin, -inf where
        none was. Falsified: the float64 margin of the counterexample.
    seconds
        Wall time spent on this image, its share of its batches.
    counterexample
        Shape (*shape), float32, where an attack falsified; None for a misclassified image,
        which is its own.
    parts
        Sub-problems that complete verifiers bounded; 0 where none took part.
    """

    index: int
    label: int
    predicted: int
    status: Status
    stage: str
    reason: str
    margin: float
    seconds: float
    counterexample: Tensor | None
    parts: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Verdict):
            return NotImplemented
        mine, theirs = self.counterexample, other.counterexample
        if mine is None or theirs is None:
            same = mine is theirs
        else:
            same = mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        return same and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[object, ...]:
        names = (field.name for field in fields(self))
        return tuple(getattr(self, name) for name in names if name != "counterexample")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a stage hands to :func:`conclude`.

    Attributes
    ----------
    bound
        Largest lower bound proved for the smallest margin; -inf where none was.
    replay
        A candidate counterexample, replayed.
    reason
        Why the image has to stay undecided ("nan", "memory", "timeout", "hopeless",
        "contradiction");
        "" leaves the decision to the bound and the replay.
    parts
        Sub-problems that were bounded on the way.
    """

    bound: float = -math.inf
    replay: Replay | None = None
    reason: str = ""
    parts: int = 0

    @property
    def is_doubtful(self) -> bool:
        """Whether it is a candidate that was not repeated."""
        return self.replay is not None and not self.replay.reproduced


def conclude(
    index: int, label: int, predicted: int, stage: str, seconds: float, evidence: Evidence
) -> Verdict:
    """Turn evidence into a verdict; every verdict is made here and nowhere else.

    Fails closed: *verified* needs a finite bound strictly above zero on a correctly classified
    image, *falsified* a counterexample that was replayed; all else is *unknown* and says why.
    The arguments are the fields of :class:`Verdict`.
    """
    known = evidence.bound if math.isfinite(evidence.bound) else -math.inf
    status, margin, reason = Status.UNKNOWN, known, "stages exhausted"
    counterexample = None
    if evidence.reason:
        reason = evidence.reason
    elif evidence.replay is not None:
        if not evidence.replay.reproduced:
            reason = "not replayed"
        else:
            status, margin = Status.FALSIFIED, evidence.replay.margin
            if predicted != label:
                reason = "misclassified"
            else:
                reason = "counterexample"
                counterexample = evidence.replay.point.detach().to("cpu", torch.float32)
    elif math.isnan(evidence.bound) or evidence.bound == math.inf:
        reason = "nan"
    elif evidence.bound > 0:
        if predicted == label:
            status, reason = Status.VERIFIED, ""
        else:
            reason = "contradiction"
    return Verdict(
        index, label, predicted, status, stage, reason, margin, seconds, counterexample,
        evidence.parts,
    )  # fmt: skip
