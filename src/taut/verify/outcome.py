"""The answer to an instance, a network with a property, and the one function it leaves through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from taut.verify.witness import Witness


class Answer(StrEnum):
    """What is known of the question whether the property can be violated."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Outcome:
    """What was decided about an instance, by which stage and why.

    Attributes
    ----------
    answer
        ``sat``: there is a counterexample, which was replayed. ``unsat``: it is proved that
        there is none. ``timeout``: the time ran out. ``unknown``: all stages left it open.
    stage
        Who decided; else the last stage tried.
    reason
        "" for sat and unsat; else "timeout", "stages exhausted", "memory", "nan" (a bound was
        not finite), "not replayed" (a counterexample of the search was not repeated everywhere)
        or "contradiction" (a bound exceeded a value of the network).
    seconds
        Wall time.
    witness
        The counterexample.

    """

    answer: Answer
    stage: str
    reason: str
    seconds: float
    witness: Witness | None = None


@dataclass(frozen=True)
class State:
    """What is known of one case of an instance.

    Attributes
    ----------
    proved
        Whether every group is proved not to be reached, by bounds that can be trusted.
    reason
        Why the case cannot be proved any more; "" where it can, or is.

    """

    proved: bool = False
    reason: str = ""


def answered(
    states: list[State],
    stage: str,
    seconds: float,
    witness: Witness | None = None,
    *,
    expired: bool = False,
) -> Outcome:
    """Turn what is known of an instance's cases into its answer; no other function does.

    Fails closed: *sat* needs a witness that was replayed, *unsat* every case proved and none
    with a reason against it; all else is *timeout* or *unknown* and says why.
    """
    if witness is not None:
        return Outcome(Answer.SAT, stage, "", seconds, witness)
    if states and all(state.proved and not state.reason for state in states):
        return Outcome(Answer.UNSAT, stage, "", seconds)
    if expired:
        return Outcome(Answer.TIMEOUT, stage, "timeout", seconds)
    reasons = [state.reason for state in states if state.reason]
    reason = reasons[0] if reasons else "stages exhausted"
    return Outcome(Answer.UNKNOWN, stage, reason, seconds)
