"""Accuracies, counts, the interval, and the errors of bad arguments."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn
from verify_nets import images, labels, make, predictions

from taut.errors import ConfigError, DataError, ModelError, RegionError, TautError
from taut.verify import Cascade, Certification, Status, Verdict, certify, wilson_interval
from tests.counts import cases


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_ends_are_the_shares_that_the_score_test_just_accepts(total, fraction):
    successes = round(total * fraction)
    low, high = wilson_interval(successes, total)
    share, z = successes / total, norm.ppf(0.975)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            spread = math.sqrt(end * (1 - end) / total)
            assert abs(share - end) / spread == pytest.approx(z, rel=1e-6)


def test_wilson_at_the_ends_and_a_thousand():
    assert wilson_interval(0, 50)[0] == 0
    assert wilson_interval(50, 50)[1] == 1
    low, high = wilson_interval(500, 1000)
    assert (low, high) == (pytest.approx(0.469, abs=5e-4), pytest.approx(0.531, abs=5e-4))
    for bad in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(DataError):
            wilson_interval(*bad)


def verdict(index: int, status: str, stage: str, predicted: int = 0, reason: str = "") -> Verdict:
    return Verdict(index, 0, predicted, Status(status), stage, reason, 0.0, 0.1, None)


def test_accuracies_are_shares_of_all_images():
    result = Certification(
        (
            verdict(0, "verified", "ibp"),
            verdict(1, "verified", "crown"),
            verdict(2, "falsified", "clean", predicted=1, reason="misclassified"),
            verdict(3, "falsified", "attack", reason="counterexample"),
            verdict(4, "unknown", "crown", reason="stages exhausted"),
            verdict(5, "unknown", "clean", predicted=-1, reason="nan"),
            verdict(6, "unknown", "attack", reason="not replayed"),
            verdict(7, "unknown", "crown", reason="stages exhausted"),
        ),
        eps=0.1,
        seconds=2.0,
        stages=("clean", "attack", "ibp", "crown-ibp", "crown"),
    )
    assert result.images == 8
    assert result.natural_accuracy == 6 / 8
    assert result.attacked_accuracy == 5 / 8
    assert result.certified_accuracy == 2 / 8
    assert result.unknown() == {"stages exhausted": 2, "nan": 1, "not replayed": 1}
    assert result.by_stage() == {
        "clean": {"verified": 0, "falsified": 1, "unknown": 1},
        "attack": {"verified": 0, "falsified": 1, "unknown": 1},
        "ibp": {"verified": 1, "falsified": 0, "unknown": 0},
        "crown-ibp": {"verified": 0, "falsified": 0, "unknown": 0},
        "crown": {"verified": 1, "falsified": 0, "unknown": 2},
    }
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary["certified_interval"] == list(wilson_interval(2, 8))
    assert (summary["images"], summary["eps"], summary["seconds"]) == (8, 0.1, 2.0)
    assert summary["natural_accuracy"] == 0.75
    assert summary["verdicts"] == result.by_stage()


def test_nothing_certified_has_no_accuracy():
    empty = Certification((), 0.1, 0.0)
    for name in ("natural_accuracy", "attacked_accuracy", "certified_accuracy"):
        with pytest.raises(DataError):
            getattr(empty, name)


@settings(max_examples=cases(10), deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.1))
def test_the_summary_is_plain_json(seed, eps):
    net, x = make("dense", seed), images(5, seed)
    result = certify(net, x, labels(net, x), eps)
    assert json.loads(json.dumps(result.summary(), allow_nan=False)) == result.summary()


def spoiled(position: int, value: float) -> torch.Tensor:
    x = images(5)
    x[position, 0, 0, 0] = value
    return x


GOOD = torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": spoiled(3, math.nan)}, DataError, "image 3"),
        ({"x": spoiled(2, math.inf)}, DataError, "image 2"),
        ({"x": spoiled(4, 1.5)}, DataError, r"image 4 leaves the pixel range .* to 1\.5"),
        ({"x": spoiled(1, -0.1)}, DataError, "image 1 leaves the pixel range"),
        ({"x": (images(5) * 255).to(torch.uint8)}, DataError, "divide"),
        ({"x": images(5).numpy()}, DataError, "ndarray"),
        ({"x": images(0)}, DataError, "non-empty"),
        ({"x": images(5, shape=(3, 5, 5))}, ModelError, r"\(3, 5, 5\)"),
        ({"x": images(5, shape=(2, 6, 6))}, ModelError, r"\(2, 6, 6\)"),
        ({"y": torch.tensor([0, 1, 4, 0, 5])}, DataError, "label 4 of image 2"),
        ({"y": torch.tensor([0, -1, 1, 0, 0])}, DataError, "label -1 of image 1"),
        ({"y": GOOD[:4]}, DataError, "one whole number per image"),
        ({"y": GOOD.float()}, DataError, "one whole number per image"),
        ({"eps": -0.1}, RegionError, "eps"),
        ({"eps": math.nan}, RegionError, "eps"),
        ({"eps": math.inf}, RegionError, "eps"),
        ({"indices": [0, 1, 2]}, DataError, "5 different positions"),
        ({"indices": [0, 1, 2, 2, 3]}, DataError, "5 different positions"),
        ({"model": nn.Flatten()}, DataError, None),
        ({"model": nn.Conv2d(2, 4, 3)}, ModelError, "logits"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(50, 1))}, ModelError, "at least two"),
        ({"model": make("dense").half()}, ModelError, "float16"),
        ({"cascade": Cascade(stages=("clean", "zonotope"))}, ConfigError, "'zonotope'"),
    ],
)
def test_bad_arguments_are_one_clear_error(change, error, message):
    given = {"model": make("dense"), "x": images(5), "y": GOOD, "eps": 0.1} | change
    if message is None:  # an identity: logits are pixels, and certification is possible
        assert certify(**given).images == 5
        return
    with pytest.raises(error, match=message) as caught:
        certify(**given)
    assert isinstance(caught.value, TautError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": ()},
        {"stages": ("ibp", "clean")},
        {"stages": ("clean", "ibp", "ibp")},
        {"batch_size": 0},
        {"piece_size": 0},
        {"timeout": 0.0},
        {"timeout": math.nan},
        {"data_range": (1.0, 0.0)},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        Cascade(**settings)


def test_labels_of_any_whole_type_will_do():
    net, x = make("dense"), images(5)
    y = predictions(net, x)
    found = [certify(net, x, y.to(kind), 0.001) for kind in (torch.int32, torch.uint8)]
    assert [r.natural_accuracy for r in found] == [1, 1]
