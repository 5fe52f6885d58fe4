"""Which images a report shows, and how each is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from taut.report import png
from taut.report.data import ReportData, counterexample

if TYPE_CHECKING:
    from taut.verify.verdict import Verdict

BROKEN, OTHERS = 24, 6
"""Most counterexamples shown, and most images of every other kind."""


@dataclass(frozen=True)
class Choice:
    """The verdicts whose images are shown, by kind."""

    broken: tuple[Verdict, ...]
    undecided: tuple[Verdict, ...]
    verified: tuple[Verdict, ...]
    misclassified: tuple[Verdict, ...]

    @property
    def indices(self) -> list[int]:
        """Indices of the images that must be there, each once."""
        chosen = self.broken + self.undecided + self.verified + self.misclassified
        return [v.index for v in chosen]


@dataclass(frozen=True)
class Tile:
    """One image of the gallery, ready for the page; pictures are data URIs."""

    index: int
    label: str
    predicted: str
    stage: str
    margin: float
    image: str
    small: bool
    adversarial: str | None = None
    difference: str | None = None
    adversarial_class: str | None = None
    distance: float | None = None


def choose(verdicts: Sequence[Verdict]) -> Choice:
    """Pick images by a fixed rule, so that nobody picks the pretty ones.

    Counterexamples: in order of index, taking the classes in turn. Undecided and verified:
    those whose bound is closest to zero. Misclassified: the first ones.
    """
    broken = [v for v in verdicts if v.counterexample is not None]
    undecided = [v for v in verdicts if v.status == "unknown"]
    verified = [v for v in verdicts if v.status == "verified"]
    wrong = [v for v in verdicts if v.status == "falsified" and v.counterexample is None]
    return Choice(
        broken=tuple(_classes_in_turn(broken)[:BROKEN]),
        undecided=tuple(sorted(undecided, key=_nearest)[:OTHERS]),
        verified=tuple(sorted(verified, key=_nearest)[:OTHERS]),
        misclassified=tuple(sorted(wrong, key=lambda v: v.index)[:OTHERS]),
    )


def _nearest(verdict: Verdict) -> tuple[float, int]:
    """Sort key: distance of the bound from zero; no bound (NaN) comes last."""
    return (abs(verdict.margin) if math.isfinite(verdict.margin) else math.inf), verdict.index


def _classes_in_turn(verdicts: Iterable[Verdict]) -> list[Verdict]:
    turns: dict[int, int] = {}
    keyed = []
    for v in sorted(verdicts, key=lambda v: v.index):
        turns[v.label] = turns.get(v.label, -1) + 1
        keyed.append((turns[v.label], v.label, v.index, v))
    return [v for *_, v in sorted(keyed, key=lambda item: item[:3])]


def tiles(data: ReportData, chosen: Sequence[Verdict]) -> list[Tile]:
    """Tiles of those chosen verdicts whose image is there."""
    return [tile(data, v) for v in chosen if v.index in data.images]


def tile(data: ReportData, verdict: Verdict) -> Tile:
    """The tile of one verdict; the difference gets full colour at eps (or its own maximum)."""
    image = np.asarray(data.images[verdict.index])
    other = counterexample(verdict)
    plain = Tile(
        index=verdict.index,
        label=data.class_name(verdict.label),
        predicted=data.class_name(verdict.predicted),
        stage=verdict.stage,
        margin=verdict.margin,
        image=png.data_uri(png.picture(image)),
        small=max(image.shape[1:]) <= 128,
    )
    if other is None:
        return plain
    distance = float(np.abs(other.astype(np.float64) - image.astype(np.float64)).max())
    predicted = (data.adversarial_predictions or {}).get(verdict.index)
    scale = data.eps or distance or 1.0
    return replace(
        plain,
        adversarial=png.data_uri(png.picture(other)),
        difference=png.data_uri(png.difference(image, other, scale)),
        adversarial_class=None if predicted is None else data.class_name(predicted),
        distance=distance,
    )
