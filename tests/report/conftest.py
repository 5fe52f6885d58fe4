"""The sample run, whole and empty."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import Case, sample

from taut.report import ReportData


@pytest.fixture(scope="session")
def case() -> Case:
    return sample()


@pytest.fixture(scope="session")
def bare(case: Case) -> ReportData:
    """A run that holds nothing but its name."""
    return replace(
        case.data, config={}, metrics=[], summary={}, verdicts=[], images={},
        class_names=None, adversarial_predictions=None, commands=(), weights_sha256=None,
    )  # fmt: skip
