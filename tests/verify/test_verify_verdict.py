"""The one exit of verdicts, the replay, and the roundings of the region."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from taut.errors import RegionError
from taut.verify import Evidence, Replay, Status, Verdict, conclude, replay
from taut.verify.boxes import exact_box, inner_box, outer_box

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
REPLAYS = st.none() | st.builds(Replay, st.just(torch.ones(2)), st.booleans(), FLOATS, FLOATS)
EVIDENCE = st.builds(
    Evidence,
    bound=FLOATS,
    replay=REPLAYS,
    reason=st.sampled_from(["", "", "nan", "memory", "timeout", "contradiction"]),
)


@given(EVIDENCE, st.integers(-1, 2), st.integers(0, 2))
def test_every_verdict_is_backed_by_its_evidence(evidence, predicted, label):
    verdict = conclude(7, label, predicted, "ibp", 0.5, evidence)
    assert (verdict.index, verdict.label, verdict.predicted) == (7, label, predicted)
    assert (verdict.stage, verdict.seconds) == ("ibp", 0.5)
    assert not math.isnan(verdict.margin)
    if verdict.status == Status.VERIFIED:
        assert verdict.reason == evidence.reason == ""
        assert evidence.replay is None
        assert 0 < verdict.margin == evidence.bound < math.inf
        assert predicted == label
    elif verdict.status == Status.FALSIFIED:
        found = evidence.replay
        assert evidence.reason == ""
        assert found.inside
        assert -math.inf < found.margin < 0
        assert -math.inf < found.margin32 < 0
        assert verdict.margin == found.margin
        assert verdict.reason == ("counterexample" if predicted == label else "misclassified")
        assert (verdict.counterexample is None) == (predicted != label)
    else:
        assert verdict.reason
        assert verdict.margin == evidence.bound or verdict.margin == -math.inf
    if verdict.status != Status.FALSIFIED:
        assert verdict.counterexample is None


@pytest.mark.parametrize(
    ("evidence", "predicted", "status", "reason", "margin"),
    [
        (Evidence(0.25), 1, Status.VERIFIED, "", 0.25),
        (Evidence(0.25), 0, Status.UNKNOWN, "contradiction", 0.25),
        (Evidence(0.0), 1, Status.UNKNOWN, "stages exhausted", 0.0),
        (Evidence(-3.0), 1, Status.UNKNOWN, "stages exhausted", -3.0),
        (Evidence(), 1, Status.UNKNOWN, "stages exhausted", -math.inf),
        (Evidence(math.inf), 1, Status.UNKNOWN, "nan", -math.inf),
        (Evidence(math.nan), 1, Status.UNKNOWN, "nan", -math.inf),
        (Evidence(0.25, reason="memory"), 1, Status.UNKNOWN, "memory", 0.25),
        (Evidence(replay=Replay(torch.ones(1), True, -1.0, -2.0)), 1, Status.FALSIFIED,
         "counterexample", -1.0),
        (Evidence(replay=Replay(torch.ones(1), True, -1.0, -2.0)), 2, Status.FALSIFIED,
         "misclassified", -1.0),
        (Evidence(replay=Replay(torch.ones(1), False, -1.0, -2.0)), 1, Status.UNKNOWN,
         "not replayed", -math.inf),
        (Evidence(replay=Replay(torch.ones(1), True, 0.0, -2.0)), 1, Status.UNKNOWN,
         "not replayed", -math.inf),
        (Evidence(replay=Replay(torch.ones(1), True, -1.0, 1e-9)), 1, Status.UNKNOWN,
         "not replayed", -math.inf),
    ],
)  # fmt: skip
def test_conclusions(evidence, predicted, status, reason, margin):
    verdict = conclude(0, 1, predicted, "s", 0.0, evidence)
    assert (verdict.status, verdict.reason, verdict.margin) == (status, reason, margin)


def test_verdicts_are_values():
    point = torch.rand(3)
    made = [
        Verdict(0, 1, 1, Status.FALSIFIED, "attack", "counterexample", -1.0, 0.1, point.clone())
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert made[0] != dataclasses.replace(made[0], counterexample=point + 1)
    assert made[0] != dataclasses.replace(made[0], counterexample=None)
    assert made[0] != dataclasses.replace(made[0], margin=-2.0)
    assert made[0] != "verdict"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made[0].status = Status.VERIFIED


def threshold(at: float) -> nn.Sequential:
    """Class 1 wins where the first pixel exceeds ``at``."""
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    net[0].bias.data = torch.tensor([at, 0.0])
    return net


def test_a_replay_needs_both_precisions():
    x = torch.tensor([0.5, 0.5])
    net = threshold(0.55)
    good = replay(net, x, 0, 0.1, torch.tensor([0.59, 0.5]))
    assert good.reproduced
    assert good.margin == pytest.approx(-0.04, abs=1e-6)
    assert good.margin32 == pytest.approx(-0.04, abs=1e-6)
    assert not replay(net, x, 0, 0.1, torch.tensor([0.54, 0.5])).reproduced
    assert not replay(net, x, 1, 0.1, torch.tensor([0.59, 0.5])).reproduced
    # A weight that float32 cannot hold: the point is beyond it in float64 alone, or in float32.
    fine = threshold(0.55).double()
    point = torch.tensor([0.55, 0.5])
    for shift, sign in ((-1e-9, -1), (1e-9, 1)):
        fine[0].bias.data[0] = float(point[0]) + shift
        found = replay(fine, x.double(), 0, 0.1, point)
        assert math.copysign(1, found.margin) == sign
        assert found.margin32 == 0
        assert not found.reproduced


def test_a_replay_is_strict_about_the_region():
    x = torch.tensor([0.5, 0.95])
    net = threshold(0.0)  # every point is misclassified
    inside, outside = torch.tensor([0.6, 1.0]), torch.tensor([0.6, 1.0])
    box = exact_box(x[None], 0.1, (0.0, 1.0))
    inside[0] = inner_box(box, torch.float32).upper[0, 0]
    outside[0] = torch.nextafter(inside[0], torch.tensor(2.0))
    assert replay(net, x, 0, 0.1, inside).reproduced
    assert not replay(net, x, 0, 0.1, outside).inside
    above = torch.tensor([0.55, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))])
    assert not replay(net, x, 0, 0.1, above).inside
    assert replay(net, x, 0, 0.1, above, data_range=None).inside
    assert not replay(net, x, 0, 0.1, torch.tensor([math.nan, 0.95])).inside
    with pytest.raises(RegionError):
        replay(net, x, 0, -0.1, inside)


def test_a_replay_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    values = {replay(net, torch.rand(2), 0, 0.1, torch.full((2,), 0.5)).margin for _ in range(3)}
    assert len(values) == 1  # no dropout
    assert all(module.training for module in net.modules())
    assert all(p.dtype == torch.float32 and p.grad is None for p in net.parameters())
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8),
    st.floats(0, 1) | st.sampled_from([0.0, 1e-12, 1e-9, 2 / 255, 8 / 255, 0.1, 0.3]),
)
def test_boxes_are_rounded_out_for_proofs_and_in_for_attacks(pixels, eps):
    x = torch.tensor([pixels])
    exact = exact_box(x, eps, (0.0, 1.0))
    assert exact.lower.dtype == torch.float64
    outer, inner = (f(exact, torch.float32) for f in (outer_box, inner_box))
    assert outer.lower.dtype == inner.lower.dtype == torch.float32
    assert bool((outer.lower.double() <= exact.lower).all())
    assert bool((outer.upper.double() >= exact.upper).all())
    assert bool((inner.lower.double() >= exact.lower).all())
    assert bool((inner.upper.double() <= exact.upper).all())
    assert bool(inner.contains(x).all())
    # Not further than one float32 number.
    step = torch.finfo(torch.float32).eps
    for box in (outer, inner):
        assert float((box.lower.double() - exact.lower).abs().max()) <= step
        assert float((box.upper.double() - exact.upper).abs().max()) <= step
    assert bool((outer.lower >= 0).all())
    assert bool((outer.upper <= 1).all())
    same = outer_box(exact, torch.float64)
    assert torch.equal(same.lower, exact.lower)
    assert torch.equal(same.upper, exact.upper)
