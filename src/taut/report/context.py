"""Everything the template shows, computed from the data in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from taut.report import cells, counts, curves, facts, gallery, text
from taut.report import figures as draw
from taut.report.counts import Share, StageRow
from taut.report.data import ReportData

MOST_LISTED = 500
"""Most rows of the list of images that are not certified."""

MOST_CLASSES = 30
"""Most classes for a heat map; beyond, the most frequent pairs are listed."""

_FATES = {
    "certified": ("certified", "proved for the whole region"),
    "undecided": ("undecided", "neither proved nor broken"),
    "broken": ("broken", "a counterexample was found"),
    "misclassified": ("misclassified", "wrong on the image itself"),
}


def headline(data: ReportData) -> dict[str, Share]:
    """Accuracies, from the verdicts where there are any, else from the summary.

    The attacked accuracy is left out where nothing attacked: it would be the natural one
    under a name that promises more.
    """
    found = counts.summary_shares(data.summary)
    if data.verdicts:
        found = counts.shares(data.verdicts)
    if not facts.attacked(data):
        found.pop("attacked", None)
    return found


def stage_rows(data: ReportData) -> list[StageRow]:
    """Verdicts by stage, from the journal or else from the summary."""
    told = counts.summary_stages(data.summary)
    if not data.verdicts:
        return told
    measured = data.summary.get("stage_seconds")
    seconds = measured if isinstance(measured, Mapping) else None
    return counts.stages(data.verdicts, seconds, also=[row.name for row in told])


def figures(data: ReportData) -> dict[str, go.Figure]:
    """The figures whose data are there, by name."""
    shares, rows, metrics = headline(data), stage_rows(data), data.metrics
    found: dict[str, go.Figure] = {}
    if shares:
        found["accuracies"] = draw.accuracies(shares)
    if rows:
        found["stages"] = draw.stages(rows)
    if any(row.seconds is not None for row in rows):
        found["seconds"] = draw.seconds(rows)
    histogram = counts.margin_histogram(data.verdicts)
    if histogram is not None:
        found["margins"] = draw.margins(histogram)
    pairs = _confusion(data)
    names = _class_names(data)
    if pairs and len(names) <= MOST_CLASSES:
        found["confusion"] = draw.confusion(pairs, names)
    if curves.loss_parts(metrics):
        found["losses"] = curves.losses(metrics)
    if curves.has(metrics, "validation", "natural_accuracy") or curves.has(
        metrics, "validation", "certified_accuracy"
    ):
        found["validation"] = curves.validation(metrics)
    if curves.has(metrics, "lr"):
        found["learning_rate"] = curves.learning_rate(metrics)
    if curves.has(metrics, "seconds"):
        found["epoch_seconds"] = curves.epoch_seconds(metrics)
    return found


def context(data: ReportData) -> dict[str, Any]:
    """Variables of ``report.html.j2``."""
    shares, rows = headline(data), stage_rows(data)
    return {
        "title": data.title,
        "eps": data.eps,
        "shares": shares,
        "total": next(iter(shares.values())).total if shares else None,
        "unfinished": bool(data.verdicts) and "certified_accuracy" not in data.summary,
        "fates": _fates(data),
        "facts": facts.overview(data, rows),
        "precision": facts.precision(data),
        "closest": facts.closest(data),
        "close": facts.CLOSE,
        "stages": rows,
        "stage_words": facts.STAGE_WORDS,
        "histogram": counts.margin_histogram(data.verdicts),
        "classes": [(data.class_name(row.label), row) for row in counts.classes(data.verdicts)],
        "many": MOST_CLASSES,
        "pairs": _top_pairs(data),
        "pictures": _pictures(data),
        "cells": cells.section(data, shares),
        "reasons": counts.reasons(data.verdicts),
        "measured_stages": isinstance(data.summary.get("stage_seconds"), Mapping),
        "epochs": _epochs(data.metrics),
        "validation_eps": _validation_eps(data.metrics),
        "listed": _not_certified(data),
        "settings": _settings(data.config),
        "versions": _versions(data.config),
        "timings": _timings(data),
        "commands": list(data.commands),
        "weights_sha256": data.weights_sha256,
    }


def _fates(data: ReportData) -> list[dict[str, Any]]:
    if not data.verdicts:
        return []
    return [
        {"key": key, "word": _FATES[key][0], "gloss": _FATES[key][1], "count": count,
         "share": count / len(data.verdicts)}
        for key, count in counts.fates(data.verdicts).items()
    ]  # fmt: skip


def _class_names(data: ReportData) -> dict[int, str]:
    labels = {v.label for v in data.verdicts} | set((data.adversarial_predictions or {}).values())
    labels |= set(range(len(data.class_names or ())))
    return {int(label): data.class_name(int(label)) for label in sorted(labels)}


def _confusion(data: ReportData) -> dict[tuple[int, int], int]:
    return counts.confusion(data.verdicts, data.adversarial_predictions or {})


def _top_pairs(data: ReportData) -> list[tuple[str, str, int]]:
    """The most frequent confusions, for a table that stands without the figure."""
    ranked = sorted(_confusion(data).items(), key=lambda item: (-item[1], item[0]))
    return [(data.class_name(i), data.class_name(j), n) for (i, j), n in ranked[:12]]


def _pictures(data: ReportData) -> dict[str, Any]:
    chosen = gallery.choose(data.verdicts)
    broken = gallery.tiles(data, chosen.broken)
    return {
        "broken": broken,
        "all_broken": sum(v.counterexample is not None for v in data.verdicts),
        "undecided": gallery.tiles(data, chosen.undecided),
        "verified": gallery.tiles(data, chosen.verified),
        "misclassified": gallery.tiles(data, chosen.misclassified),
        "coloured": any(len(data.images[t.index]) == 3 for t in broken),
        "furthest": max((t.distance for t in broken if t.distance is not None), default=None),
    }


def _epochs(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The numbers behind the curves as a table: one row per epoch."""
    paths: list[tuple[str, tuple[str, ...]]] = [("epoch", ("epoch",)), ("eps", ("eps",))]
    paths.append(("lr", ("lr",)))
    paths += [(f"loss: {part}", ("loss", part)) for part in curves.loss_parts(metrics)]
    paths += [("natural", ("validation", "natural_accuracy")),
              ("certified", ("validation", "certified_accuracy")),
              ("seconds", ("seconds",))]  # fmt: skip
    present = [(name, path) for name, path in paths if curves.has(metrics, *path)]
    if not present:
        return None
    columns = [
        [_cell(name, value) for value in curves.column(metrics, *path)] for name, path in present
    ]
    rows = list(zip(*columns, strict=True))
    return {"names": [name for name, _ in present], "rows": rows}


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return text.percent(value) if name in ("natural", "certified") else text.number(value, 4)


def _validation_eps(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """The eps of the certified validation accuracy, when it is the same in every epoch."""
    distinct = {v for v in curves.column(metrics, "validation", "eps") if v is not None}
    return distinct.pop() if len(distinct) == 1 else None


def _not_certified(data: ReportData) -> dict[str, Any]:
    others = sorted((v for v in data.verdicts if not counts.is_certified(v)), key=lambda v: v.index)
    rows = [
        {"index": v.index, "label": data.class_name(v.label),
         "predicted": data.class_name(v.predicted), "status": str(v.status), "stage": v.stage,
         "reason": v.reason, "margin": v.margin, "seconds": v.seconds}
        for v in others[:MOST_LISTED]
    ]  # fmt: skip
    return {"rows": rows, "total": len(others)}


def _settings(config: Mapping[str, Any]) -> list[text.Table]:
    """The configuration as tables; the versions have their own place."""
    top = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    found = text.tables(top, "run")
    for name, value in config.items():
        if isinstance(value, Mapping) and name != "versions":
            found += text.tables(value, name)
    return found


def _versions(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = config.get("versions")
    if not isinstance(versions, Mapping):
        return []
    return [(name, text.setting(v)) for name, v in versions.items() if v is not None]


def _timings(data: ReportData) -> list[tuple[str, str]]:
    spent = [s for s in curves.column(data.metrics, "seconds") if s is not None]
    speeds = [s for s in curves.column(data.metrics, "images_per_second") if s is not None]
    rows = []
    if spent:
        rows.append((f"Training, {len(spent)} epochs", text.duration(sum(spent))))
        rows.append(("Training, median epoch", text.duration(sorted(spent)[len(spent) // 2])))
    if speeds:
        rows.append(("Training, median images per second",
                     text.number(sorted(speeds)[len(speeds) // 2], 3)))  # fmt: skip
    seconds, total = data.summary.get("seconds"), data.summary.get("images")
    if isinstance(seconds, int | float):
        rows.append(("Certification", text.duration(seconds)))
        if total and seconds > 0:
            rows.append(("Certification, images per second", text.number(total / seconds, 3)))
    return rows
