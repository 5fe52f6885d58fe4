"""Deciding an instance: a network, and cases of inputs whose outputs must not be unsafe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from taut.attacks import PGD, evaluating
from taut.attacks.loop import Attack
from taut.bounds import METHODS
from taut.errors import ConfigError, out_of_memory
from taut.property.case import Case
from taut.verify.complete import COMPLETE_STAGES
from taut.verify.deadline import Clock, OutOfTime, interrupting
from taut.verify.open_case import OpenCase, Subject
from taut.verify.outcome import Outcome, answered
from taut.verify.witness import Evaluator, Witness

if TYPE_CHECKING:
    from taut.verify.mip import MIP

INSTANCE_STAGES = ("attack", "ibp", "crown-ibp", "crown", "alpha-crown", "branch")


@dataclass(frozen=True)
class Procedure:
    """How to decide an instance.

    Attributes
    ----------
    stages
        In order: ``"attack"``, names of bounding methods (:data:`taut.bounds.METHODS`) and the
        verifiers ``"branch"``, ``"mip"``, ``"lp"`` and ``"gm-protocol"``, each at most once.
    attack
        The search for counterexamples; it climbs :math:`-\\max_r (a_r z - b_r)` of one group
        after the other, the likeliest first.
    numbers
        How many numbers all starts of the attack together may have: 8 to 256 starts.
    timeout
        Seconds in all, or None.
    seed
        Of the random starts.
    mip
        Settings of ``"mip"``, ``"lp"`` and ``"gm-protocol"``; None for the defaults.

    Raises
    ------
    ConfigError
        A value out of range.

    """

    stages: tuple[str, ...] = INSTANCE_STAGES
    attack: Attack = PGD(steps=50, loss="margin", targets=3)  # noqa: RUF009 - frozen
    numbers: int = 65536
    timeout: float | None = 60.0
    seed: int = 0
    mip: MIP | None = None

    def __post_init__(self) -> None:
        known = ("attack", *METHODS, *COMPLETE_STAGES)
        if unknown := [stage for stage in self.stages if stage not in known]:
            raise ConfigError(f"unknown stage {unknown[0]!r}; choose from {', '.join(known)}")
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise ConfigError(
                f"name one stage or more, each once; got {', '.join(self.stages) or 'none'}"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"timeout must be positive seconds or None, got {self.timeout}")
        if self.attack.loss != "margin":
            raise ConfigError(
                f"an instance is attacked with loss='margin', not {self.attack.loss!r}"
            )

    def starts(self, size: int) -> int:
        """Return with how many starts inputs of ``size`` numbers are attacked."""
        return min(256, max(8, self.numbers // size))


def decide(
    model: nn.Module,
    shape: Sequence[int],
    cases: Sequence[Case],
    procedure: Procedure = Procedure(),
    *,
    evaluators: Sequence[Evaluator] = (),
    on_stage: Callable[[str], None] | None = None,
) -> Outcome:
    """Decide whether some input of some case has an unsafe output.

    Every stage looks at the cases that are open. A case is proved when in each of its groups
    some row's best lower bound is above zero; a float32 bound that is borderline is computed in
    float64 first. A counterexample counts when the module repeats it in float64 and float32,
    and every evaluator does; see :func:`~taut.verify.witness.witnessed`. The module runs in
    evaluation mode and is left as it was. In the main thread the work is interrupted when the
    time is up, elsewhere between stages.

    Parameters
    ----------
    model
        Any module of supported operators, ``(B, *shape)`` to outputs ``(B, ...)``, which count
        in row-major order.
    shape
        Shape of one input.
    cases
        Boxes of inputs in row-major order and what is unsafe there, one or more.
    procedure
        Stages, attack, time, seed.
    evaluators
        Other ways to compute the network, which have to agree with a counterexample.
    on_stage
        Called with the name of each stage before it begins.

    Raises
    ------
    PropertyError
        When a case has another number of inputs or outputs than the network.
    ModelError
        When the model cannot be traced.

    """
    if not cases:
        raise ConfigError("an instance needs at least one case")
    clock = Clock(math.inf if procedure.timeout is None else procedure.timeout)
    subject = Subject(model, tuple(shape), tuple(evaluators))
    run = _Run([OpenCase(subject, case, procedure, place) for place, case in enumerate(cases)])
    expired = False
    with evaluating(model), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            run.through(procedure, clock, on_stage)
        except OutOfTime:
            expired = True
    states = [case.state for case in run.cases]
    return answered(states, run.stage, clock.spent, run.witness, expired=expired)


class _Run:
    """The cases on their way through the stages."""

    def __init__(self, cases: list[OpenCase]) -> None:
        self.cases, self.stage = cases, ""
        self.witness: Witness | None = None

    def through(
        self, procedure: Procedure, clock: Clock, on_stage: Callable[[str], None] | None
    ) -> None:
        for stage in procedure.stages:
            pending = [case for case in self.cases if case.is_open]
            if not pending:
                return
            self.stage = stage
            if on_stage is not None:
                on_stage(stage)
            for case in pending:
                case.prepare(stage)
                clock.check()
                self.witness = _within_memory(case, stage, clock)
                if self.witness is not None:
                    return


def _within_memory(case: OpenCase, stage: str, clock: Clock) -> Witness | None:
    try:
        with interrupting(clock):
            return case.run(stage, clock)
    except Exception as error:
        if not out_of_memory(error):
            raise
    case.lost()
    return None
