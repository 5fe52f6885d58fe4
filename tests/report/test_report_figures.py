"""What the figures show is what the summary, the journal and the metrics say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sample_run import EPS, EVIL, Case

from taut.report import ReportData, counts
from taut.report.context import figures, headline


def plain(data: ReportData) -> dict[str, Any]:
    """Every figure as the page gets it: decoded JSON."""
    return {name: json.loads(figure.to_json()) for name, figure in figures(data).items()}


@pytest.fixture(scope="module")
def drawn(case: Case) -> dict[str, Any]:
    return plain(case.data)


def test_every_figure_is_there_and_uses_theme_colours_only(drawn: dict[str, Any]) -> None:
    assert set(drawn) == {
        "accuracies", "stages", "seconds", "margins", "confusion",
        "losses", "validation", "learning_rate", "epoch_seconds"}  # fmt: skip
    for figure in drawn.values():
        assert "#" not in json.dumps(figure["layout"])  # no fixed colour that a theme would miss
        assert "color" not in json.dumps(figure["layout"]["template"])


def test_accuracy_bars_are_the_summary(case: Case, drawn: dict[str, Any]) -> None:
    for trace in drawn["accuracies"]["data"]:
        value = 100 * case.data.summary[f"{trace['name']}_accuracy"]
        assert trace["x"] == [pytest.approx(value)]
        lower, upper = counts.Share(round(value), 100).interval
        assert trace["error_x"]["array"] == [pytest.approx(100 * upper - value)]
        assert trace["error_x"]["arrayminus"] == [pytest.approx(value - 100 * lower)]


def test_stage_bars_are_the_summary(case: Case, drawn: dict[str, Any]) -> None:
    shown = {
        (stage, trace["name"]): value
        for trace in drawn["stages"]["data"]
        for stage, value in zip(trace["y"], trace["x"], strict=True)
    }
    table = case.data.summary["verdicts"]
    assert shown == {(s, status): n for s, row in table.items() for status, n in row.items()}


def test_curves_are_the_metrics(case: Case, drawn: dict[str, Any]) -> None:
    rows = case.data.metrics
    losses = {t["name"]: t["y"] for t in drawn["losses"]["data"]}
    for part in ("total", "natural", "robust"):
        assert losses[part] == [row["loss"][part] for row in rows]
    assert losses["eps (right)"] == [row["eps"] for row in rows]
    curves = {t["name"]: t["y"] for t in drawn["validation"]["data"]}
    for kind in ("natural", "certified"):
        assert np.allclose(curves[kind], [100 * r["validation"][f"{kind}_accuracy"] for r in rows])
    assert drawn["learning_rate"]["data"][0]["y"] == [row["lr"] for row in rows]


def test_the_ramp_has_its_own_axis_on_the_right(drawn: dict[str, Any]) -> None:
    for name in ("losses", "validation"):
        axes = {t["name"]: t.get("yaxis", "y") for t in drawn[name]["data"]}
        ramp = axes.pop("eps (right)")
        assert ramp not in axes.values()
        assert drawn[name]["layout"]["yaxis"]["side"] == "right"
        curves = drawn[name]["layout"]["yaxis2"]
        assert (curves["side"], curves["overlaying"]) == ("left", "y")  # over the ramp


def test_nan_and_missing_values_leave_gaps(case: Case) -> None:
    rows = [dict(row) for row in case.data.metrics]
    rows[3]["loss"] = {"total": float("nan")}
    rows[4].pop("validation")
    drawn = plain(replace(case.data, metrics=rows))
    assert {t["name"]: t["y"] for t in drawn["losses"]["data"]}["total"][3] is None
    assert {t["name"]: t["y"] for t in drawn["validation"]["data"]}["natural"][4] is None


def test_margins_are_all_counted(case: Case, drawn: dict[str, Any]) -> None:
    shown = {t["name"]: sum(t["y"]) for t in drawn["margins"]["data"]}
    assert shown == {"verified": 60, "falsified": 30, "unknown": 10}


def test_confusion_counts_every_counterexample(case: Case, drawn: dict[str, Any]) -> None:
    table = np.array(drawn["confusion"]["data"][0]["z"])
    assert table.sum() == 20
    for verdict in case.data.verdicts:
        if verdict.counterexample is not None:
            assert case.data.adversarial_predictions is not None
            assert table[verdict.label, case.data.adversarial_predictions[verdict.index]] > 0
    assert not np.diag(table).any()


def test_class_names_reach_plotly_as_text(case: Case) -> None:
    names = [EVIL, "<b>bold</b>", *"23456789"]
    drawn = plain(replace(case.data, class_names=names))
    ticks = drawn["confusion"]["layout"]["xaxis"]["ticktext"]
    assert not any("<" in tick for tick in ticks)
    assert "&lt;b&gt;bold&lt;/b&gt;" in ticks


def test_no_attack_no_attacked_accuracy(case: Case) -> None:
    verdicts = [replace(v, index=i) for i, v in enumerate(
        v for v in case.data.verdicts if v.counterexample is None)]  # fmt: skip
    data = replace(case.data, verdicts=verdicts, summary={"eps": EPS})
    assert list(headline(data)) == ["natural", "certified"]
    told = replace(case.data, summary={**case.data.summary, "attacked_accuracy": None})
    assert list(headline(told)) == ["natural", "certified"]


def test_a_summary_without_verdicts_still_gives_its_figures(case: Case) -> None:
    drawn = plain(replace(case.data, verdicts=[]))
    assert {t["name"]: t["x"][0] for t in drawn["accuracies"]["data"]} == {
        "natural": 90, "attacked": 70, "certified": 60}  # fmt: skip
    assert sum(sum(t["x"]) for t in drawn["stages"]["data"]) == 100
    assert "margins" not in drawn
    assert "seconds" not in drawn
