"""Ramps of eps and schedules of the learning rate, at every off-by-one."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.errors import ConfigError
from taut.training import EpsRamp, RateSchedule

S = 40  # steps per epoch

ramps = st.builds(
    EpsRamp,
    kind=st.sampled_from(["linear", "smoothed"]),
    start=st.integers(1, 5),
    length=st.integers(1, 30),
    convention=st.sampled_from(["crown-ibp", "auto-lirpa", "sabr", "ctbench"]),
    mid=st.sampled_from([0.0, 0.25, 0.4, 1.0]),
    power=st.sampled_from([2.0, 4.0]),
)


@pytest.mark.parametrize(
    ("convention", "start", "length", "ends"),
    [
        # "length 61" from the 0-based epoch 1 is a ramp of 60 epochs
        ("crown-ibp", 1, 61, (1 * S, 61 * S)),
        ("crown-ibp", 320, 1601, (320 * S, 1920 * S)),
        # 1-based: start 1 ramps at once, start 2 after one natural epoch
        ("auto-lirpa", 1, 20, (0, 20 * S)),
        ("auto-lirpa", 2, 80, (1 * S, 81 * S)),
        # t = epoch S + batch with 1-based epochs, T0 = 2 S - 1, T1 = 22 S in that count
        ("sabr", 2, 20, (2 * S - 1 - S, 22 * S - S)),
        # 0 -> 20 on MNIST, 1 -> 81 on CIFAR-10
        ("ctbench", 0, 20, (0, 20 * S)),
        ("ctbench", 1, 80, (1 * S, 81 * S)),
    ],
)
def test_conventions_give_the_steps_of_the_published_codes(
    convention: str, start: int, length: int, ends: tuple[int, int]
) -> None:
    ramp = EpsRamp("linear", start, length, convention)  # type: ignore[arg-type]
    assert ramp.ends(S) == ends


def test_sabr_trains_epoch_one_at_eps_zero_and_epoch_end_at_full_eps() -> None:
    ramp = EpsRamp("linear", 2, 20, "sabr")
    first_epoch = [ramp.eps(t, 0.3, S) for t in range(S)]
    assert first_epoch == [0.0] * S
    assert ramp.eps(S, 0.3, S) > 0  # its first step already lies on the ramp
    assert ramp.eps(21 * S - 1, 0.3, S) < 0.3  # last step of the 1-based epoch 21
    assert ramp.eps(21 * S, 0.3, S) == 0.3  # first step of epoch 22


def test_linear_ramp_at_its_ends_and_middle() -> None:
    ramp = EpsRamp("linear", 1, 11, "crown-ibp")
    begin, end = ramp.ends(S)
    assert ramp.eps(begin, 0.4, S) == 0.0
    assert ramp.eps(begin + 1, 0.4, S) == pytest.approx(0.4 / (end - begin), rel=1e-12)
    assert ramp.eps((begin + end) // 2, 0.4, S) == pytest.approx(0.2, rel=1e-12)
    assert ramp.eps(end - 1, 0.4, S) == pytest.approx(0.4 * (1 - 1 / (end - begin)), rel=1e-12)
    assert ramp.eps(end, 0.4, S) == 0.4
    assert ramp.eps(10**9, 0.4, S) == 0.4


def test_smoothed_ramp_is_a_thirteenth_at_its_knee_and_has_a_continuous_slope() -> None:
    ramp = EpsRamp("smoothed", 1, 1001, "crown-ibp")
    begin, end = ramp.ends(S)
    knee = begin + (end - begin) // 4
    assert ramp.eps(begin, 0.3, S) == 0.0
    assert ramp.eps(knee, 0.3, S) == pytest.approx(0.3 / 13, rel=1e-12)
    assert ramp.eps(end, 0.3, S) == 0.3
    before = ramp.eps(knee, 0.3, S) - ramp.eps(knee - 1, 0.3, S)
    after = ramp.eps(knee + 1, 0.3, S) - ramp.eps(knee, 0.3, S)
    assert before == pytest.approx(after, rel=1e-3)
    # the slope of the curve, 4 a p^3 = 4 (eps / 13) / p, is the slope of the line
    assert after == pytest.approx(4 * 0.3 / 13 / (knee - begin), rel=1e-9)


@pytest.mark.parametrize("mid", [0.25, 0.4])
def test_smoothed_ramp_follows_the_printed_formula(mid: float) -> None:
    eps, q = 0.1, 4
    ramp = EpsRamp("smoothed", 2, 9, "auto-lirpa", mid=mid)
    t0, t1 = ramp.ends(S)
    p = math.floor(mid * (t1 - t0))
    tm = t0 + p
    a = eps / ((t1 - tm) * q * p ** (q - 1) + p**q)
    for t in range(t1 + 5):
        if t <= t0:
            expected = 0.0
        elif t < tm:
            expected = a * (t - t0) ** q
        else:
            line = a * p**q + (eps - a * p**q) * (t - tm) / (t1 - tm)
            expected = min(line, eps)
        assert ramp.eps(t, eps, S) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(deadline=None)
@given(ramps, st.floats(0, 1), st.integers(1, 7))
def test_every_ramp_is_monotone_and_ends_exactly_on_target(
    ramp: EpsRamp, target: float, steps: int
) -> None:
    begin, end = ramp.ends(steps)
    values = [ramp.eps(t, target, steps) for t in range(max(end, 1) + 2)]
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[-1] == target
    assert ramp.eps(end, target, steps) == target
    if begin < end:
        assert ramp.eps(begin, target, steps) == 0.0
    assert all(0.0 <= value <= target for value in values)


def test_length_one_of_crown_ibp_jumps_at_its_start() -> None:
    ramp = EpsRamp("linear", 2, 1, "crown-ibp")
    assert [ramp.eps(t, 0.1, 3) for t in (4, 5, 6)] == [0.0, 0.0, 0.1]


def test_constant_is_constant() -> None:
    assert EpsRamp("constant").eps(0, 0.1, 5) == 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"start": -1},
        {"start": 0, "convention": "auto-lirpa"},
        {"start": 0, "convention": "sabr"},
        {"length": 0},
        {"mid": 1.5},
        {"mid": math.nan},
        {"power": 1.0},
        {"kind": "cubic"},
        {"convention": "mine"},
    ],
)
def test_ramps_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        EpsRamp(**fields)  # type: ignore[arg-type]


def by_epoch(rate: RateSchedule, epochs: int, ramp_end: int = 0) -> list[float]:
    """Factor at the first step of each 0-based epoch, which has to hold to its last."""
    found = []
    for epoch in range(epochs):
        steps = {rate.factor_at(epoch * S + i, S, epochs, ramp_end) for i in range(S)}
        assert len(steps) == 1
        found.append(steps.pop())
    return found


def test_milestones_after_epoch_act_once_that_many_epochs_are_done() -> None:
    rate = RateSchedule("milestones", (2, 4), 0.1)
    # a scheduler stepped after each epoch: 0-based epoch 2 is the first after two steps
    assert by_epoch(rate, 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_milestones_at_the_start_of_an_epoch_act_in_the_epoch_of_that_number() -> None:
    rate = RateSchedule("milestones", (2, 4), 0.2, convention="start-of-epoch")
    # 1-based epochs 1 .. 6: the decay is active in epoch 2 and in epoch 4
    assert by_epoch(rate, 6) == pytest.approx([1, 0.2, 0.2, 0.04, 0.04, 0.04])


def test_a_fractional_milestone_falls_inside_its_epoch() -> None:
    rate = RateSchedule("milestones", (0.5,), 0.1)
    assert rate.factor_at(S // 2 - 1, S, 1, 0) == 1.0
    assert rate.factor_at(S // 2, S, 1, 0) == pytest.approx(0.1)


def test_halving_counts_from_the_end_of_the_ramp() -> None:
    ramp = EpsRamp("linear", 1, 4, "crown-ibp")  # full eps from the 0-based epoch 4 on
    rate = RateSchedule("after-ramp", factor=0.5, every=10)
    found = by_epoch(rate, 26, ramp.ends(S)[1])
    # a scheduler set to max(e - 4 + 1, 0) after epoch e: 10 is reached after epoch 13
    assert found == pytest.approx([1.0] * 14 + [0.5] * 10 + [0.25] * 2)


def test_cosine_starts_at_one_and_ends_at_zero() -> None:
    rate = RateSchedule("cosine")
    values = [rate.factor_at(t, S, 5, 0) for t in range(5 * S + 1)]
    assert values[0] == 1.0
    assert values[5 * S // 2] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.0, abs=1e-15)
    assert values == sorted(values, reverse=True)


def test_constant_rate() -> None:
    assert by_epoch(RateSchedule(), 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 0.0},
        {"factor": math.nan},
        {"every": 0},
        {"kind": "milestones"},
        {"milestones": (4.0, 2.0)},
        {"milestones": (math.inf,)},
        {"milestones": (-1.0,)},
        {"kind": "step"},
        {"convention": "sometime"},
    ],
)
def test_rates_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="lr"):
        RateSchedule(**fields)  # type: ignore[arg-type]
