"""What a complete verifier is: one that decides, given the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from taut.graph import Network
from taut.region import Box

if TYPE_CHECKING:  # they answer questions of this module, and are imported when asked for
    from taut.verify.branch import Branch
    from taut.verify.mip import MIP


@dataclass(frozen=True, eq=False)
class Question:
    """Images whose margins are to be decided over their boxes.

    Attributes
    ----------
    module
        The model itself, in evaluation mode; what points are tried on.
    net
        Its operators, in the precision the bounds are computed in.
    box
        Where every margin has to stay positive, of that precision; it holds the exact region.
    inner
        The same rounded inwards: where counterexamples are looked for.
    y
        Labels ``(n,)``.
    proved
        Lower bounds of the margins that are known already, ``(n, K)``, +inf at the true class.
    threshold
        What a bound has to exceed to be trusted in this precision, ``(n,)``, at least 0.
    seconds
        What is left of each image's time; ``math.inf`` without limit.
    seeds
        One per image, for whatever is drawn at random.
    """

    module: nn.Module
    net: Network
    box: Box
    inner: Box
    y: Tensor
    proved: Tensor
    threshold: Tensor
    seconds: Sequence[float]
    seeds: Sequence[int]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a complete verifier found out about one image.

    Attributes
    ----------
    bound
        The largest number that the smallest margin is proved to be at least; -inf where none is.
    point
        A candidate counterexample ``(*shape)`` in ``inner``, not yet replayed; None without.
    reason
        Why it stopped without a decision: "timeout", "hopeless" (it would take far longer),
        "memory", "nan" or "undecided" (it has tried all it can); "" where the bound exceeds the
        threshold or there is a point.
    parts
        Sub-problems that were bounded.
    """

    bound: float = -math.inf
    point: Tensor | None = None
    reason: str = ""
    parts: int = 0


class Complete(Protocol):
    """A verifier that decides every image, given the time. It never raises for lack of memory."""

    def decide(self, question: Question) -> list[Answer]:
        """Return an answer for each image of the question."""
        ...


COMPLETE_STAGES = ("branch", "mip", "lp", "gm-protocol")
"""Stages that ask such a verifier: ``lp`` and ``gm-protocol`` are settings of ``mip``."""


def verifier(stage: str, branch: Branch | None = None, mip: MIP | None = None) -> Branch | MIP:
    """Return the verifier of one of :data:`COMPLETE_STAGES`.

    Parameters
    ----------
    stage
        ``branch``; ``mip``; ``lp``, the linear program alone; ``gm-protocol``, where only what
        is decided within its time counts, and else the linear program.
    branch, mip
        Settings; the defaults where left out.

    Raises
    ------
    ConfigError
        The solver is not installed.
    """
    if stage == "branch":
        from taut.verify.branch import Branch

        return branch or Branch()
    from taut.verify.mip import MIP

    mip = mip or MIP()
    if stage == "mip":
        return mip
    return replace(mip, relax=stage == "lp", protocol="dual" if stage == "lp" else stage)
