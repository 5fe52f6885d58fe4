"""A report must not show two truths: every contradiction between its parts is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_run import EPS, Case

from taut.errors import RunError
from taut.report import ReportData, render
from taut.report.data import check
from taut.verify.verdict import Status, Verdict


def with_verdict(data: ReportData, at: int, **changes: object) -> ReportData:
    verdicts = list(data.verdicts)
    verdicts[at] = replace(verdicts[at], **changes)
    return replace(data, verdicts=verdicts)


def with_summary(data: ReportData, **changes: object) -> ReportData:
    return replace(data, summary={**data.summary, **changes})


def with_image(data: ReportData, index: int, image: np.ndarray) -> ReportData:
    return replace(data, images={**data.images, index: image})


def moved_stage(data: ReportData) -> ReportData:
    """ibp and crown-ibp exchange their counts: the totals stay, the stages do not."""
    table = dict(data.summary["verdicts"])
    table["ibp"], table["crown-ibp"] = table["crown-ibp"], table["ibp"]
    return with_summary(data, verdicts=table)


def too_far(data: ReportData) -> ReportData:
    other = torch.from_numpy(np.asarray(data.images[1])).clone()
    other[0, 0, 0] += EPS + 1e-4
    return with_verdict(data, 1, counterexample=other)


def below_zero(data: ReportData) -> ReportData:
    other = data.verdicts[1].counterexample
    assert other is not None
    other = other.clone()
    other[0, 0, 0] = -0.01
    return with_verdict(data, 1, counterexample=other)


def replayed_as_label(data: ReportData) -> ReportData:
    return replace(data, adversarial_predictions={1: data.verdicts[1].label})


CONTRADICTIONS: dict[str, tuple[Callable[[ReportData], ReportData], str]] = {
    "certified": (lambda d: with_summary(d, certified_accuracy=0.61), "certified 61 of 100"),
    "natural": (lambda d: with_summary(d, natural_accuracy=0.8), "natural 80 of 100"),
    "images": (lambda d: with_summary(d, images=99), "of 99"),
    "stage": (moved_stage, "stage 'ibp'"),
    "twice": (lambda d: with_verdict(d, 1, index=0), "two verdicts of one image"),
    "misclassified yet verified": (
        lambda d: with_verdict(d, 5, predicted=(d.verdicts[5].label + 1) % 10),
        "misclassified yet",
    ),
    "distance": (too_far, "outside the region"),
    "pixel range": (below_zero, "outside the region"),
    "another image": (lambda d: with_image(d, 1, np.asarray(d.images[2])), "outside the region"),
    "another size": (lambda d: with_image(d, 1, np.zeros((1, 8, 8))), "has shape"),
    "normalised": (lambda d: with_image(d, 3, np.asarray(d.images[3]) - 0.5), "normalisation"),
    "flat": (lambda d: with_image(d, 3, np.zeros(784)), "channels, height, width"),
    "prediction": (replayed_as_label, "classified as its label"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused(name: str, case: Case) -> None:
    change, words = CONTRADICTIONS[name]
    with pytest.raises(RunError, match=words):
        render(change(case.data))


def test_the_sample_and_float32_rounding_of_eps_pass(case: Case, bare: ReportData) -> None:
    check(case.data)
    check(bare)
    image = np.full((1, 2, 2), 0.7, np.float32)
    other = torch.from_numpy(image + np.float32(EPS))
    assert float(np.abs(other.double().numpy() - image.astype(np.float64)).max()) != EPS
    verdict = Verdict(0, 1, 1, Status.FALSIFIED, "attack", "counterexample", -1.0, 0.1, other)
    check(replace(bare, summary={"eps": EPS}, verdicts=[verdict], images={0: image}))
