"""Counts behind the figures: sums, definitions and the histogram's edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import Case

from taut.report import counts
from taut.report.counts import Share
from taut.verify.verdict import Status, Verdict


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_ends_solve_the_score_equation(numbers: tuple[int, int]) -> None:
    share = Share(*numbers)
    for end in share.interval:
        # Wilson's ends are the shares pi whose own standard error puts p exactly z away.
        away = abs(share.value - end)
        assert math.isclose(
            away, 1.959963984540054 * math.sqrt(end * (1 - end) / share.total), abs_tol=1e-9
        ) or end in (0.0, 1.0)
    assert share.interval[0] <= share.value <= share.interval[1]


def test_shares_and_fates_agree_with_their_definitions(case: Case) -> None:
    shares = counts.shares(case.data.verdicts)
    assert {name: share.count for name, share in shares.items()} == {
        "natural": 90, "attacked": 70, "certified": 60}  # fmt: skip
    fates = counts.fates(case.data.verdicts)
    assert fates == {"certified": 60, "undecided": 10, "broken": 20, "misclassified": 10}


def test_an_image_without_a_prediction_is_undecided_and_not_natural() -> None:
    blank = Verdict(0, 3, -1, Status.UNKNOWN, "clean", "nan", -math.inf, 0.1, None)
    assert counts.fates([blank])["undecided"] == 1
    assert counts.shares([blank])["natural"].count == 0
    assert counts.shares([blank])["attacked"].count == 0


def test_stages_come_in_cascade_order_and_add_up(case: Case) -> None:
    rows = counts.stages(case.data.verdicts, also=["lbp"])
    assert [row.name for row in rows] == ["clean", "ibp", "crown-ibp", "attack", "crown", "lbp"]
    assert sum(row.total for row in rows) == 100
    assert rows[-1].total == 0
    told = counts.summary_stages(case.data.summary)
    assert [replace(row, seconds=None) for row in rows[:-1]] == told
    total = sum(v.seconds for v in case.data.verdicts)
    assert math.isclose(sum(row.seconds or 0 for row in rows), total)


def test_measured_stage_seconds_are_taken_as_they_are(case: Case) -> None:
    rows = counts.stages(case.data.verdicts, {"ibp": 4.5})
    assert {row.name: row.seconds for row in rows}["ibp"] == 4.5
    assert {row.name: row.seconds for row in rows}["clean"] is None


def test_classes_partition_the_images(case: Case) -> None:
    rows = counts.classes(case.data.verdicts)
    assert [row.label for row in rows] == sorted(set(case.labels.tolist()))
    for kind, total in (("natural", 90), ("attacked", 70), ("certified", 60)):
        assert sum(getattr(row, kind).count for row in rows) == total
    assert [row.natural.total for row in rows] == np.bincount(case.labels).tolist()


@given(st.lists(st.tuples(st.sampled_from(list(Status)), st.floats(-1e4, 1e4)), min_size=1))
def test_histogram_counts_every_finite_margin_once_and_parts_at_zero(
    outcomes: list[tuple[Status, float]],
) -> None:
    verdicts = [
        Verdict(i, 0, 0, s, "ibp", "", abs(m) + 1e-3 if s == "verified" else m, 0.0, None)
        for i, (s, m) in enumerate(outcomes)
    ]
    bounds = [replace(verdicts[0], index=len(verdicts), margin=-math.inf)]
    histogram = counts.margin_histogram(verdicts + bounds)
    assert histogram is not None
    assert histogram.without_bound == 1
    edges = np.array(histogram.edges)
    for status in Status:
        mine = [v.margin for v in verdicts if v.status == status]
        assert sum(histogram.counts[status.value]) == len(mine)
    assert 0.0 in edges
    below = edges[1:] <= 0
    assert not np.array(histogram.counts["verified"])[below].any()
    inside = sum(edges[0] <= v.margin < edges[-1] for v in verdicts)
    assert histogram.outside <= len(verdicts)
    assert abs(histogram.outside - (len(verdicts) - inside)) <= np.sum(
        np.isclose([v.margin for v in verdicts], edges[-1])
        | np.isclose([v.margin for v in verdicts], edges[0])
    )


def test_histogram_is_absent_without_a_finite_margin() -> None:
    blank = Verdict(0, 3, -1, Status.UNKNOWN, "clean", "nan", math.nan, 0.1, None)
    assert counts.margin_histogram([blank]) is None
    assert counts.margin_histogram([]) is None


@pytest.mark.parametrize(
    ("width", "rounded"), [(0.0, 1.0), (0.03, 0.05), (0.1, 0.1), (0.11, 0.2), (6.0, 10.0)]
)
def test_widths_are_round(width: float, rounded: float) -> None:
    assert math.isclose(counts.round_width(width), rounded)
