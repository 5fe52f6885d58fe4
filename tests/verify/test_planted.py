"""Counterexamples that no attack finds: none is called safe, and searches find the narrowest."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from planted_nets import CLASSES, LABEL, TARGET, Planted, planted

from taut.attacks import PGD
from taut.bounds import METHODS, Ascent
from taut.property.case import Case
from taut.property.exact import Constraint, Exact
from taut.verify import Cascade, Status, Verdict, certify
from taut.verify.branch import Branch
from taut.verify.instance import Procedure, decide
from taut.verify.outcome import Answer

WIDTHS = (0.03, 0.01, 1e-3)
INPUTS = {"2": 2, "3": 3, "5": 5, "8": 8, "images": 16}
COUNT = 12
"""Networks of each kind; 60 in all."""

SHORT = Ascent(iterations=2)
QUICK = Branch(SHORT, SHORT, every=False, candidates=1, attack_steps=0)


def nets(kind: str, least: float, count: int = COUNT) -> list[Planted]:
    return [
        planted(seed, INPUTS[kind], WIDTHS[seed % len(WIDTHS)], least, images=kind == "images")
        for seed in range(count)
    ]


def verdict(
    net: Planted, *stages: str, timeout: float | None = None, branch: Branch | None = None
) -> Verdict:
    cascade = Cascade(
        ("clean", *stages), attack=PGD(steps=5, loss="margin"), timeout=timeout, branch=branch
    )
    return certify(net.model, net.x, torch.tensor([LABEL]), net.eps, cascade=cascade).verdicts[0]


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_planted_is_there_and_attacks_miss_it(kind: str) -> None:
    missed = 0
    for net in nets(kind, -0.02):
        for number in (torch.float32, torch.float64):
            z = net.model.to(number)(net.point[None].to(number))[0]
            assert float(z[LABEL] - z[1:].max()) == pytest.approx(net.least, abs=1e-5)
        assert bool(net.box.contains(net.point[None].double()).all())
        starts = net.box.to(dtype=torch.float32).each(lambda end: end.expand(10, *end.shape[1:]))
        attack = PGD(steps=40, loss="margin", targets=1)
        x, y = net.x.expand_as(starts.lower), torch.full((10,), LABEL)
        missed += not bool(attack(net.model.float(), x, y, starts).success.any())
    assert missed >= COUNT - 3


@pytest.mark.parametrize("kind", INPUTS)
def test_no_bounding_method_proves_what_is_false(kind: str) -> None:
    for seed, net in enumerate(nets(kind, -0.02)):
        slow = ("alpha-crown",) if seed else ()
        stages = [name for name in METHODS if name not in slow]
        found = verdict(net, "attack", *stages)
        assert found.status is not Status.VERIFIED
        if found.status is Status.UNKNOWN:
            assert found.margin <= net.least + 1e-5


@pytest.mark.parametrize("kind", INPUTS)
def test_programs_find_all_and_prove_what_is_true(kind: str) -> None:
    for net in nets(kind, -0.02):
        found = verdict(net, "mip")
        assert found.status is Status.FALSIFIED
        check_found(net, found)
    for net in nets(kind, 0.02, 6):
        check_proved(net, verdict(net, "mip"))


@pytest.mark.parametrize(("kind", "count"), [("2", 6), ("3", 6), ("5", 3)])
def test_branch_and_bound_finds_all_of_few_inputs_and_proves_what_is_true(
    kind: str, count: int
) -> None:
    for net in nets(kind, -0.02, count):
        found = verdict(net, "branch", branch=QUICK)
        assert found.status is Status.FALSIFIED
        check_found(net, found)
    for net in nets(kind, 0.02, 3):
        check_proved(net, verdict(net, "branch", branch=QUICK))


def check_found(net: Planted, found: Verdict) -> None:
    assert found.counterexample is not None
    point = found.counterexample.double()
    assert bool(net.box.contains(point[None]).all())
    z = net.model.double()(point[None])[0]
    assert net.least - 1e-5 <= float(z[LABEL] - z[TARGET]) < 0
    assert float((point - net.point).abs().sum()) < max(WIDTHS)


def check_proved(net: Planted, found: Verdict) -> None:
    assert found.status is Status.VERIFIED
    assert 0 < found.margin <= net.least + 1e-5


@pytest.mark.parametrize("kind", ["2", "8", "images"])
def test_what_is_not_found_in_time_is_not_proved(kind: str) -> None:
    """With all default stages, half a second and more pixels than are cut up in that time."""
    for net in nets(kind, -0.02, 2):
        found = verdict(net, "attack", "crown", "branch", timeout=0.5)
        assert found.status is not Status.VERIFIED
        assert found.margin <= 0


def test_as_instances_with_a_property() -> None:
    """The target's logit must not come up to the label's."""
    row = Constraint(((LABEL, Fraction(1)), (TARGET, Fraction(-1))), Fraction(0))
    for kind, stages in (("3", ("attack", "ibp", "crown", "branch")), ("images", ("crown", "mip"))):
        for least, answer in ((-0.02, Answer.SAT), (0.02, Answer.UNSAT)):
            for net in nets(kind, least, 2):
                ends = (net.box.lower.flatten().tolist(), net.box.upper.flatten().tolist())
                exact = Exact(*(tuple(Fraction(v) for v in end) for end in ends), ((row,),))
                procedure = Procedure(stages, attack=PGD(steps=5, loss="margin"), timeout=60)
                found = decide(
                    net.model, tuple(net.x.shape[1:]), [Case.of(exact, CLASSES)], procedure
                )
                assert found.answer is answer
