"""Verdicts do not depend on batches, subsets or interruptions; the model is left as it was."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from verify_nets import KINDS, images, labels, make, predictions

from taut.attacks import PGD
from taut.bounds import METHODS
from taut.errors import TautError
from taut.graph import Network
from taut.region import Box
from taut.verify import Cascade, Verdict, certify

EPS = 0.02
CASCADE = Cascade(attack=PGD(steps=8, restarts=2))


def same(a: Verdict, b: Verdict) -> bool:
    """Equal but for time, and for the last bits of what linear algebra computed."""
    points = [v.counterexample for v in (a, b)]
    close = points[0] is None and points[1] is None
    if not close and None not in points:
        close = torch.allclose(points[0], points[1], atol=1e-5, rtol=0)
    plain = [dataclasses.replace(v, seconds=0.0, margin=0.0, counterexample=None) for v in (a, b)]
    return plain[0] == plain[1] and close and a.margin == pytest.approx(b.margin, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_subsets_give_the_same_verdicts(kind):
    net, x = make(kind, 7), images(21, 7)
    y = labels(net, x)
    whole = certify(net, x, y, EPS, cascade=CASCADE).verdicts
    assert len({v.status for v in whole}) >= 2
    again = certify(net, x, y, EPS, cascade=CASCADE).verdicts
    assert all(same(a, b) for a, b in zip(whole, again, strict=True))
    small = dataclasses.replace(CASCADE, batch_size=4)
    assert all(
        same(a, b)
        for a, b in zip(whole, certify(net, x, y, EPS, cascade=small).verdicts, strict=True)
    )
    part = [20, 3, 4, 11, 6, 17]
    found = certify(net, x[part], y[part], EPS, cascade=small, indices=part).verdicts
    assert [v.index for v in found] == part
    assert all(same(whole[v.index], v) for v in found)


def test_interrupted_and_resumed():
    """What a killed run recorded, and the rest certified later, is what one run finds."""
    net, x = make("residual", 9), images(18, 9)
    y = labels(net, x)
    whole = certify(net, x, y, EPS, cascade=CASCADE).verdicts
    journal: dict[int, Verdict] = {}

    def record(verdict: Verdict) -> None:
        if len(journal) == 7:
            raise KeyboardInterrupt
        journal[verdict.index] = verdict

    net.train()
    with pytest.raises(KeyboardInterrupt):
        certify(net, x, y, EPS, cascade=CASCADE, on_verdict=record)
    assert len(journal) == 7
    assert all(module.training for module in net.modules())
    rest = [i for i in range(18) if i not in journal]
    later = certify(net, x[rest], y[rest], EPS, cascade=CASCADE, indices=rest).verdicts
    journal |= {v.index: v for v in later}
    assert all(same(whole[i], journal[i]) for i in range(18))


def test_the_seed_decides_the_starts_of_the_attack():
    net, x = make("dense", 8), images(30, 8)
    y = labels(net, x)
    points = []
    for seed in (0, 0, 1):
        found = certify(net, x, y, 0.2, cascade=dataclasses.replace(CASCADE, seed=seed)).verdicts
        points.append(torch.cat([v.counterexample for v in found if v.counterexample is not None]))
    assert torch.equal(points[0], points[1])
    assert not torch.equal(points[0], points[2])


def test_the_model_is_left_as_it_was():
    net, x = make("convolution", 5), images(8, 5)
    y = labels(net, x)
    net.train()
    net[1].eval()
    net[3].weight.requires_grad_(False)
    flags = [module.training for module in net.modules()]
    wants = [p.requires_grad for p in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    result = certify(net, x, y, EPS, cascade=CASCADE)
    assert [module.training for module in net.modules()] == flags
    assert [p.requires_grad for p in net.parameters()] == wants
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    net.eval()
    evaluated = certify(net, x, y, EPS, cascade=CASCADE)
    assert all(same(a, b) for a, b in zip(result.verdicts, evaluated.verdicts, strict=True))


def test_callbacks_report_every_verdict_and_stage():
    net, x = make("dense", 6), images(10, 6)
    y = labels(net, x)
    verdicts, stages = [], []
    result = certify(
        net,
        x,
        y,
        EPS,
        cascade=dataclasses.replace(CASCADE, batch_size=6),
        on_verdict=verdicts.append,
        on_stage=lambda name, count: stages.append((name, count)),
    )
    assert sorted(verdicts, key=lambda v: v.index) == list(result.verdicts)
    assert [name for name, _ in stages].count("clean") == 2
    assert stages[0] == ("clean", 6)
    decided = [sum(counts.values()) for counts in result.by_stage().values()]
    entered = {name: sum(n for s, n in stages if s == name) for name, _ in stages}
    undecided = 10
    for name, count in zip(result.by_stage(), decided, strict=True):
        assert entered.get(name, 0) == undecided
        undecided -= count
    assert undecided == 0


def test_a_dear_stage_gives_its_verdicts_piece_by_piece():
    net, x = make("convolution", 1), images(30, 1)
    y = labels(net, x)
    sizes: list[int] = []

    class Watched:
        info = METHODS["crown"].info

        def margins(self, net: Network, box: Box, y: torch.Tensor) -> torch.Tensor:
            if box.lower.dtype == torch.float32:  # not a borderline bound computed again
                sizes.append(len(y))
                told.append(len(verdicts))
            return METHODS["crown"].margins(net, box, y)

    told: list[int] = []
    verdicts: list[Verdict] = []
    cascade = Cascade(stages=("clean", "dear"), piece_size=4)
    certify(
        net,
        x,
        y,
        1e-3,
        cascade=cascade,
        methods={"dear": Watched()},
        on_verdict=verdicts.append,
    )
    correct = int((y == predictions(net, x)).sum())
    assert sizes == [4] * (correct // 4) + ([correct % 4] if correct % 4 else [])
    assert told == sorted(set(told))  # verdicts came out between the pieces


def test_spent_time_is_the_run_s():
    net, x = make("dense", 6), images(10, 6)
    result = certify(net, x, labels(net, x), EPS, cascade=CASCADE)
    assert 0 < sum(v.seconds for v in result.verdicts) <= result.seconds


def test_a_timeout_stops_an_image_between_stages():
    net, x = make("dense", 6), images(10, 6)
    y = labels(net, x)
    cascade = dataclasses.replace(CASCADE, timeout=1e-9)
    result = certify(net, x, y, EPS, cascade=cascade)
    undecided = [v for v in result.verdicts if v.status == "unknown"]
    assert {(v.stage, v.reason) for v in undecided} == {("clean", "timeout")}
    assert result.unknown() == {"timeout": len(undecided)}
    assert result.natural_accuracy == result.attacked_accuracy > result.certified_accuracy == 0
    patient = certify(net, x, y, EPS, cascade=dataclasses.replace(CASCADE, timeout=1e9))
    assert patient.certified_accuracy > 0


def test_errors_leave_the_flags_too():
    net, x = make("dense", 6), images(10, 6)
    net.train()
    with pytest.raises(TautError):
        certify(net, x, labels(net, x), -1.0)
    with pytest.raises(TautError):
        certify(net, x[:, :1], labels(net, x), EPS)
    assert all(module.training for module in net.modules())
