"""Verified images cannot be broken, falsified ones are; the figures are ordered as they must."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from verify_nets import KINDS, images, labels, make, predictions

from taut.attacks import PGD, margin
from taut.region import Box
from taut.verify import Cascade, Certification, Status, certify
from tests.counts import cases

SEEDS = st.integers(0, 10_000)
QUICK = Cascade(attack=PGD(steps=10, restarts=2))


def worst_margins(net: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    """The least margin, in float64, over 1,000 points of each ball: interior, corners, PGD's."""
    generator = torch.Generator().manual_seed(seed)
    net, box = copy.deepcopy(net).double(), Box.around(x.double(), eps)
    worst = PGD(steps=20, restarts=2, loss="margin", stop_early=False)(net, x.double(), y, box)
    margins = [worst.margin]
    for draw in range(1000):
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        noise = noise.round() if draw % 2 else noise
        with torch.no_grad():
            margins.append(margin(net(box.lower + noise * (box.upper - box.lower)), y))
    return torch.stack(margins).amin(0)


@pytest.mark.parametrize("kind", KINDS)
def test_verified_images_are_never_broken_and_bounds_hold(kind):
    decided = set()
    for seed, eps in enumerate((0.0, 0.004, 0.01, 0.03, 0.06, 0.1)):
        net, x = make(kind, seed).eval(), images(20, seed)
        y = labels(net, x)
        result = certify(net, x, y, eps, cascade=QUICK)
        decided |= {(v.status, v.stage) for v in result.verdicts}
        worst = worst_margins(net, x, y, eps, seed).tolist()
        for verdict, least in zip(result.verdicts, worst, strict=True):
            if verdict.status == Status.VERIFIED:
                assert least >= verdict.margin - 1e-5
                assert least > 0
                assert verdict.margin > 0
                assert verdict.predicted == verdict.label
            elif verdict.status == Status.UNKNOWN:
                assert least >= verdict.margin - 1e-5
    assert {status for status, _ in decided} == set(Status)  # the case is telling
    assert {"clean", "attack", "ibp", "crown-ibp"} <= {stage for _, stage in decided}


@pytest.mark.parametrize("kind", KINDS)
def test_counterexamples_are_real(kind):
    seen = 0
    for seed, eps in enumerate((0.03, 0.1, 0.4)):
        net, x = make(kind, seed).eval(), images(12, seed)
        y = labels(net, x)
        double = copy.deepcopy(net).double()
        for i, verdict in enumerate(certify(net, x, y, eps, cascade=QUICK).verdicts):
            assert verdict.label == int(y[i])
            assert verdict.predicted == int(predictions(net, x)[i])
            if verdict.status != Status.FALSIFIED:
                assert verdict.counterexample is None
                continue
            assert (verdict.reason == "misclassified") == (verdict.predicted != verdict.label)
            assert (verdict.stage == "clean") == (verdict.reason == "misclassified")
            if verdict.reason == "misclassified":
                assert verdict.counterexample is None
                point = x[i]
            else:
                point = verdict.counterexample
                seen += 1
            assert point.dtype == torch.float32
            assert point.shape == x[i].shape
            assert float((point.double() - x[i].double()).abs().max()) <= eps
            assert 0 <= float(point.min()) <= float(point.max()) <= 1
            with torch.no_grad():
                assert int(net(point[None]).argmax()) != verdict.label
                logits = double(point[None].double())
            assert int(logits.argmax()) != verdict.label
            assert verdict.margin == pytest.approx(float(margin(logits, y[i : i + 1])), abs=1e-12)
            assert verdict.margin < 0
    assert seen > 0


def counted(result: Certification) -> int:
    return sum(sum(counts.values()) for counts in result.by_stage().values())


@settings(max_examples=cases(20), deadline=None)
@given(SEEDS, st.sampled_from(KINDS), st.floats(0, 0.1))
def test_counts_sum_to_n_and_accuracies_are_ordered(seed, kind, eps):
    net, x = make(kind, seed), images(9, seed)
    y = labels(net, x)
    result = certify(net, x, y, eps, cascade=Cascade(attack=PGD(steps=3), batch_size=4))
    assert counted(result) == result.images == len(result.verdicts) == 9
    assert result.natural_accuracy == pytest.approx(float((predictions(net, x) == y).sum()) / 9)
    assert 1 >= result.natural_accuracy >= result.attacked_accuracy >= result.certified_accuracy
    low, high = result.certified_interval
    assert 0 <= low <= result.certified_accuracy <= high <= 1
    assert list(result.by_stage()) == list(Cascade().stages)
    assert [v.index for v in result.verdicts] == list(range(9))
    assert all(v.seconds > 0 for v in result.verdicts)


@settings(max_examples=cases(15), deadline=None)
@given(SEEDS, st.sampled_from(KINDS), st.lists(st.floats(0, 0.1), min_size=2, max_size=4))
def test_verified_error_does_not_decrease_in_eps(seed, kind, radii):
    """A theorem for IBP, whose boxes are nested as the balls are."""
    net, x = make(kind, seed), images(10, seed)
    y = labels(net, x)
    cascade = Cascade(stages=("clean", "ibp"))
    proved = [
        {v.index for v in certify(net, x, y, eps, cascade=cascade).verdicts if v.margin > 0}
        for eps in sorted(radii)
    ]
    assert all(later <= earlier for earlier, later in itertools.pairwise(proved))


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_cascade_on_a_grid_of_eps(kind):
    """Item 29 for every row of a table that a user would print, and dearer stages never lose."""
    net, x = make(kind, 3), images(24, 3)
    y = labels(net, x)
    rows = [certify(net, x, y, eps, cascade=QUICK) for eps in (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)]
    certified = [row.certified_accuracy for row in rows]
    assert certified == sorted(certified, reverse=True)
    assert certified[0] == rows[0].natural_accuracy == rows[0].attacked_accuracy
    assert certified[-1] < certified[0]
    for row in rows:
        assert row.natural_accuracy >= row.attacked_accuracy >= row.certified_accuracy
        stages = ("clean", "attack", "ibp")
        short = certify(net, x, y, row.eps, cascade=Cascade(stages, attack=QUICK.attack))
        assert short.certified_accuracy <= row.certified_accuracy
        assert short.attacked_accuracy == row.attacked_accuracy


def test_the_order_of_stages_changes_who_decides_but_not_what():
    net, x = make("dense", 1), images(20, 1)
    y = labels(net, x)
    orders = [
        ("clean", "attack", "ibp", "crown-ibp", "crown"),
        ("clean", "ibp", "attack", "crown-ibp", "crown"),
        ("clean", "crown", "attack"),
    ]
    found = []
    for stages in orders:
        result = certify(net, x, y, 0.02, cascade=Cascade(stages, attack=QUICK.attack))
        found.append([v.status for v in result.verdicts])
    assert found[0] == found[1] == found[2]
    assert set(found[0]) >= {Status.VERIFIED, Status.FALSIFIED}


def test_later_stages_verify_what_earlier_ones_could_not():
    net, x = make("dense", 5), images(40, 5)
    y = predictions(net, x)
    stages = certify(net, x, y, 0.012, cascade=QUICK).by_stage()
    assert stages["ibp"]["verified"] > 0
    assert stages["crown-ibp"]["verified"] > 0


def test_a_float64_model_is_certified_in_float64():
    net, x = make("convolution", 2).double(), images(12, 2)
    y = predictions(net, x.double())
    for inputs in (x, x.double()):
        result = certify(net, inputs, y, 0.01, cascade=QUICK)
        assert result.certified_accuracy > 0
        for verdict in result.verdicts:
            assert verdict.counterexample is None or verdict.counterexample.dtype == torch.float32


def test_images_at_the_end_of_an_odd_pixel_range():
    """The range ends are no float32 numbers; images there are inside, their region is clipped."""
    net, x = make("dense", 4), images(6, 4) * 3.3 - 0.3
    x[0], x[1] = -0.3, 3.0
    y = predictions(net, x)
    for model in (net, copy.deepcopy(net).double()):
        cascade = Cascade(data_range=(-0.3, 3.0), attack=QUICK.attack)
        result = certify(model, x, y, 0.01, cascade=cascade)
        assert result.natural_accuracy == 1
        assert result.certified_accuracy > 0
    whole = certify(net, x, y, 0.01, cascade=Cascade(data_range=None, attack=QUICK.attack))
    assert whole.certified_accuracy <= result.certified_accuracy
