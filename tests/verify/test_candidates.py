"""A candidate that is not repeated settles nothing: a later stage may still break an instance."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from planted_nets import CLASSES, LABEL, TARGET, Planted, planted
from torch import Tensor

from taut.attacks import PGD, Attacked
from taut.attacks.loop import Attack
from taut.property.case import Case
from taut.property.exact import Constraint, Exact
from taut.verify import Cascade, Status, certify
from taut.verify.instance import Procedure, decide
from taut.verify.outcome import Answer

QUICK = PGD(steps=3, loss="margin")


class Boasting(Attack):
    """Says of the middle of every box that it is misclassified."""

    def sizes(self) -> tuple[float, ...]:
        return ()

    def __call__(self, model, x, y, box, seeds=None, generator=None) -> Attacked:
        wrong = torch.ones_like(y, dtype=torch.bool)
        return Attacked(box.center, wrong, -torch.ones(len(y)))


def instance(net: Planted) -> Case:
    row = Constraint(((LABEL, Fraction(1)), (TARGET, Fraction(-1))), Fraction(0))
    ends = (net.box.lower.flatten().tolist(), net.box.upper.flatten().tolist())
    return Case.of(Exact(*(tuple(map(Fraction, end)) for end in ends), ((row,),)), CLASSES)


@pytest.mark.parametrize("stage", ["branch", "mip"])
def test_an_image_goes_on_after_a_candidate_that_is_none(stage: str) -> None:
    net = planted(0, 2, 0.01, -0.02)
    cascade = Cascade(("clean", "attack", stage), attack=Boasting(loss="margin"))
    (found,) = certify(net.model, net.x, torch.tensor([LABEL]), net.eps, cascade=cascade).verdicts
    assert (found.status, found.stage) == (Status.FALSIFIED, stage)
    safe = planted(0, 2, 0.01, 0.02)
    (found,) = certify(safe.model, safe.x, torch.tensor([LABEL]), 0.1, cascade=cascade).verdicts
    assert found.status is not Status.FALSIFIED
    assert found.counterexample is None


@pytest.mark.parametrize("stage", ["branch", "mip"])
def test_an_instance_goes_on_after_a_candidate_that_is_none(stage: str) -> None:
    net = planted(0, 2, 0.01, -0.02)
    stages = ("attack", "crown", stage)
    procedure = Procedure(stages, attack=Boasting(loss="margin"), numbers=1)
    found = decide(net.model, (2,), [instance(net)], procedure)
    assert (found.answer, found.stage) == (Answer.SAT, stage)
    safe = planted(0, 2, 0.01, 0.02)
    assert decide(safe.model, (2,), [instance(safe)], procedure).answer is not Answer.SAT


def test_what_no_other_runtime_repeats_is_neither_sat_nor_unsat() -> None:
    """The network computed elsewhere is the safe one, so that every candidate fails there."""
    net, safe = planted(0, 2, 0.01, -0.02), planted(0, 2, 0.01, 0.02)

    def elsewhere(x: Tensor) -> Tensor:
        with torch.no_grad():
            return safe.model(x.float())

    procedure = Procedure(("attack", "ibp", "crown", "mip"), attack=QUICK)
    plain = decide(net.model, (2,), [instance(net)], procedure)
    assert plain.answer is Answer.SAT
    found = decide(net.model, (2,), [instance(net)], procedure, evaluators=[elsewhere])
    assert (found.answer, found.reason) == (Answer.UNKNOWN, "not replayed")
    assert found.witness is None
