"""Counts behind the figures of a report: shares with intervals, stages, classes, histogram."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taut.verify.certification import wilson_interval

if TYPE_CHECKING:
    from taut.verify.verdict import Verdict

STAGE_ORDER = ("clean", "ibp", "crown-ibp", "attack", "crown")
"""The cascade's own order; stages of other names follow in the order they are met."""


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` images, with the Wilson 95 % interval of the share."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share as a fraction in [0, 1]."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval, fractions."""
        return wilson_interval(self.count, self.total)


@dataclass(frozen=True)
class StageRow:
    """Verdicts that one stage of the cascade gave; ``seconds`` is None when not known."""

    name: str
    verified: int
    falsified: int
    unknown: int
    seconds: float | None = None

    @property
    def total(self) -> int:
        """Images whose verdict names this stage."""
        return self.verified + self.falsified + self.unknown


@dataclass(frozen=True)
class ClassRow:
    """Natural, attacked and certified counts of one class."""

    label: int
    natural: Share
    attacked: Share
    certified: Share


@dataclass(frozen=True)
class Histogram:
    """Counts per bin and status; values outside the edges are counted in the end bins."""

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    outside: int
    without_bound: int


def is_natural(verdict: Verdict) -> bool:
    """Whether the image itself is classified as its label."""
    return verdict.predicted == verdict.label


def is_attacked(verdict: Verdict) -> bool:
    """Whether the image is classified correctly and no counterexample was found."""
    return is_natural(verdict) and verdict.status != "falsified"


def is_certified(verdict: Verdict) -> bool:
    """Whether the label is proved for the whole region."""
    return verdict.status == "verified"


def shares(verdicts: Sequence[Verdict]) -> dict[str, Share]:
    """Natural, attacked and certified shares of a non-empty list of verdicts."""
    total = len(verdicts)
    return {
        "natural": Share(sum(map(is_natural, verdicts)), total),
        "attacked": Share(sum(map(is_attacked, verdicts)), total),
        "certified": Share(sum(map(is_certified, verdicts)), total),
    }


def summary_shares(summary: Mapping[str, Any]) -> dict[str, Share]:
    """The same shares from ``summary.json``: those of its accuracies that are present."""
    total = summary.get("images")
    if not isinstance(total, int) or total <= 0:
        return {}
    found: dict[str, Share] = {}
    for name in ("natural", "attacked", "certified"):
        value = summary.get(f"{name}_accuracy")
        if isinstance(value, int | float) and 0 <= value <= 1:
            found[name] = Share(round(value * total), total)
    return found


def fates(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Every image once: certified, undecided, broken by the attack, misclassified.

    "Undecided" also holds an image without a counterexample that the network could not
    classify (a NaN): neither a proof nor a refutation.
    """
    natural = [v for v in verdicts if is_natural(v)]
    certified = sum(map(is_certified, natural))
    broken = sum(v.status == "falsified" for v in natural)
    misclassified = sum(v.status == "falsified" for v in verdicts) - broken
    return {
        "certified": certified,
        "undecided": len(verdicts) - certified - broken - misclassified,
        "broken": broken,
        "misclassified": misclassified,
    }


def stages(
    verdicts: Sequence[Verdict],
    seconds: Mapping[str, float] | None = None,
    also: Sequence[str] = (),
) -> list[StageRow]:
    """Verdicts by the stage they name, in cascade order.

    ``seconds`` are measured wall times per stage; without them the seconds of the images
    that a stage decided are summed. ``also`` names stages that have a row even if empty.
    """
    rows = []
    for name in ordered([*also, *(v.stage for v in verdicts)]):
        mine = [v for v in verdicts if v.stage == name]
        spent = seconds.get(name) if seconds else math.fsum(v.seconds for v in mine)
        given = Counter(str(v.status) for v in mine)
        rows.append(StageRow(name, given["verified"], given["falsified"], given["unknown"], spent))
    return rows


def summary_stages(summary: Mapping[str, Any]) -> list[StageRow]:
    """Verdicts by stage from ``summary.json``, for a run whose journal is not there."""
    table = summary.get("verdicts")
    if not isinstance(table, Mapping):
        return []
    return [
        StageRow(name, *(int(table[name].get(s, 0)) for s in ("verified", "falsified", "unknown")))
        for name in ordered(table)
    ]


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct stage names in cascade order, unfamiliar ones last."""
    distinct = list(dict.fromkeys(names))
    known = [name for name in STAGE_ORDER if name in distinct]
    return known + [name for name in distinct if name not in STAGE_ORDER]


def reasons(verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
    """Why images stayed unknown, the most frequent reason first."""
    return Counter(v.reason for v in verdicts if v.status == "unknown").most_common()


def classes(verdicts: Sequence[Verdict]) -> list[ClassRow]:
    """One row per label that occurs, in label order."""
    rows = []
    for label in sorted({v.label for v in verdicts}):
        of = shares([v for v in verdicts if v.label == label])
        rows.append(ClassRow(label, of["natural"], of["attacked"], of["certified"]))
    return rows


def confusion(
    verdicts: Sequence[Verdict], predictions: Mapping[int, int]
) -> dict[tuple[int, int], int]:
    """How often a counterexample of label i is taken for class j: ``{(i, j): count}``."""
    pairs: dict[tuple[int, int], int] = {}
    for v in verdicts:
        if v.counterexample is not None and v.index in predictions:
            pair = (v.label, int(predictions[v.index]))
            pairs[pair] = pairs.get(pair, 0) + 1
    return pairs


def margin_histogram(verdicts: Sequence[Verdict], bins: int = 40) -> Histogram | None:
    """Histogram of the margins, None without a finite one.

    Edges are multiples of a round width, so zero - the line between proved and not proved -
    is an edge whenever it lies inside. The range runs from the 1st to the 99th percentile and
    is widened to hold zero; what lies outside is counted in the end bins.
    """
    finite = sorted(v.margin for v in verdicts if math.isfinite(v.margin))
    if not finite:
        return None
    last = len(finite) - 1
    low = min(finite[int(0.01 * last)], 0.0)
    high = max(finite[math.ceil(0.99 * last)], 0.0)
    width = round_width((high - low) / bins)
    first, end = math.floor(low / width), math.ceil(high / width)
    end = max(end, first + 1)
    edges = tuple(round(i * width, 12) for i in range(first, end + 1))
    counts = {status: [0] * (end - first) for status in ("verified", "unknown", "falsified")}
    outside = 0
    for v in verdicts:
        if math.isfinite(v.margin):
            place = math.floor(v.margin / width) - first
            clipped = min(max(place, 0), end - first - 1)
            counts[str(v.status)][clipped] += 1
            outside += place != clipped
    return Histogram(
        edges, {s: tuple(c) for s, c in counts.items()}, outside, len(verdicts) - len(finite)
    )


def round_width(width: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is at least ``width`` (1 for 0)."""
    if not width > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= width * (1 - 1e-9))
