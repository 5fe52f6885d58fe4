"""What a run says of itself: data set, model, method, time, versions, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taut.report import text
from taut.report.counts import StageRow
from taut.report.data import ReportData

STAGE_WORDS = {
    "clean": "the image itself is classified; a wrong class ends the matter",
    "attack": "search for a counterexample by projected gradient steps, every iterate checked",
    "ibp": "proof by interval bound propagation",
    "crown-ibp": "proof by backward linear bounds over interval bounds of the inner layers",
    "crown": "proof by backward linear bounds of every layer",
}

CLOSE = 1e-4
"""Margins below this are named in the report: rounding errors are no longer far smaller."""


@dataclass(frozen=True)
class Closest:
    """The verified image with the smallest margin, and how many lie below ``CLOSE``."""

    index: int
    margin: float
    below: int


def find(data: ReportData, *paths: str) -> Any:
    """First value that is there under one of the dotted paths, in summary, then in config.

    A path that ends at a table with a ``name`` gives the name.
    """
    for path in paths:
        for root in (data.summary, data.config):
            value: Any = root
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, Mapping):
                value = value.get("name")
            if value is not None and value != "":
                return value
    return None


def data_set(data: ReportData) -> str | None:
    """Name of the data set and its split."""
    name = find(data, "data", "certification.data", "recipe.data", "recipe.dataset")
    split = find(data, "split", "data.split", "certification.split")
    if name is None:
        return None
    return f"{name}, {split} split" if split else str(name)


def model(data: ReportData) -> str | None:
    """Name of the network."""
    found = find(data, "model", "architecture", "certification.model", "recipe.model")
    return None if found is None else str(found)


def method(data: ReportData) -> str | None:
    """Name of the training method."""
    found = find(data, "method", "recipe.method", "recipe.train.method")
    return None if found is None else str(found)


def precision(data: ReportData) -> str | None:
    """Floating-point type the network was certified in, where the run names it."""
    found = find(data, "dtype", "certification.dtype", "certification.cascade.dtype")
    return None if found is None else str(found).removeprefix("torch.")


def attacked(data: ReportData) -> bool:
    """Whether an attack was run on the images: the summary says it, or the verdicts do."""
    if any(v.stage == "attack" or v.counterexample is not None for v in data.verdicts):
        return data.summary.get("attacked_accuracy", 0.0) is not None
    if stages := data.summary.get("verdicts"):
        return "attack" in stages and data.summary.get("attacked_accuracy") is not None
    return data.summary.get("attacked_accuracy") is not None


def overview(data: ReportData, rows: list[StageRow]) -> list[tuple[str, str]]:
    """The table under the headline: what was measured, on what, how long it took."""
    eps, total = data.eps, data.summary.get("images") or len(data.verdicts) or None
    seconds = data.summary.get("seconds")
    speed = data.summary.get("images_per_second")
    if speed is None and seconds and total:
        speed = total / seconds
    created = data.config.get("created")
    region = None
    if eps is not None:
        region = f"{text.radius(eps)}; {text.ELL}∞ norm, pixel values in [0, 1]"
    entries = [
        ("Radius eps", region),
        ("Images", None if total is None else text.integer(int(total))),
        ("Data set", data_set(data)),
        ("Network", model(data)),
        ("Training method", method(data)),
        ("Cascade", " → ".join(row.name for row in rows) or None),
        ("Certification time", text.duration(seconds) if seconds is not None else None),
        ("Speed", f"{text.number(speed, 3)} images per second" if speed else None),
        ("Run started", text.moment(created)),
    ]
    return [(name, value) for name, value in entries if value is not None]


def closest(data: ReportData) -> Closest | None:
    """Smallest margin among the verified images: how far the proofs are from rounding."""
    verified = [v for v in data.verdicts if v.status == "verified" and math.isfinite(v.margin)]
    if not verified:
        return None
    nearest = min(verified, key=lambda v: (v.margin, v.index))
    return Closest(nearest.index, nearest.margin, sum(v.margin < CLOSE for v in verified))
