"""``summary.json``: the figures a command ended with.

Format
------
One JSON object (UTF-8, values as in :mod:`taut.store.values`) with at least

``natural_accuracy``, ``attacked_accuracy``, ``certified_accuracy``
    fractions of all images, in [0, 1]: classified correctly; correctly and
    not broken by the attack; proved. ``null`` where a command does not measure
    it. Natural >= attacked >= certified, where present.
``images``
    number of images, an integer of at least 0.
``eps``
    radius in pixel units of [0, 1].
``seconds``
    wall time.
``verdicts``
    ``{stage: {"verified": n, "falsified": n, "unknown": n}}``, empty when
    nothing was certified. Otherwise the counts add up to ``images``, and the
    verified ones to ``certified_accuracy * images`` (half an image of tolerance).

A network whose first layer is a grid of cells has ``cells`` besides, an object of

``grid``
    ``n``, ``emit`` and ``offset`` of an even grid, or ``thresholds`` and ``emit``.
``cell_accuracy``
    the forward-pass check of the literature on such networks: the share of images that get
    their label by their own cells. It is the natural accuracy and bounds no adversary.
``pixels``
    values of an image, its channels counted one by one.
``straddling_share``, ``straddling_mean``, ``straddling_most``
    values that eps lets into another cell: the share of all values of all images, their mean
    number and their largest number per image.
``without_straddling``
    number of images that have none.

Further keys are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from taut.errors import RunError
from taut.store.atomic import write_atomic
from taut.store.values import from_json, pretty, read_object, to_json

ACCURACIES = ("natural_accuracy", "attacked_accuracy", "certified_accuracy")
REQUIRED = (*ACCURACIES, "images", "eps", "seconds", "verdicts")
STATUSES = ("verified", "falsified", "unknown")
CELLS = ("grid", "cell_accuracy", "pixels", "straddling_share", "straddling_mean",
         "straddling_most", "without_straddling")  # fmt: skip


def write_summary(path: Path, summary: Mapping[str, object]) -> None:
    """Replace the summary at ``path``; ``RunError`` when a figure is missing or cannot be."""
    plain = from_json(to_json(summary, "the summary"))
    check_summary(plain, "the summary")
    write_atomic(path, pretty(plain, "the summary"))


def read_summary(path: Path) -> dict[str, Any]:
    """Return the summary at ``path``; ``RunError`` when it is missing, damaged or cannot be."""
    summary = read_object(path, "run the command that writes it again")
    check_summary(summary, str(path))
    return summary


def check_summary(summary: Mapping[str, Any], where: str) -> None:
    """Check what this module's page says; ``RunError`` names the key that is wrong."""
    for key in REQUIRED:
        if key not in summary:
            raise RunError(f'{where} has no "{key}"; it needs {", ".join(REQUIRED)}')
    images = summary["images"]
    if not _is_count(images):
        raise RunError(f'{where}: "images" is {images!r}, not a number of images')
    for key in ("eps", "seconds"):
        if not _is_number(summary[key]) or summary[key] < 0:
            raise RunError(f'{where}: "{key}" is {summary[key]!r}; it must be finite and >= 0')
    present = [(key, summary[key]) for key in ACCURACIES if summary[key] is not None]
    for key, value in present:
        if not _is_number(value) or not 0 <= value <= 1:
            raise RunError(f'{where}: "{key}" is {value!r}; accuracies are fractions in [0, 1]')
    for (better, high), (worse, low) in combinations(present, 2):
        if high < low:
            raise RunError(f'{where}: "{better}" {high!r} is below "{worse}" {low!r}')
    _check_verdicts(summary, where)
    if summary.get("cells") is not None:
        _check_cells(summary, where)


def _check_verdicts(summary: Mapping[str, Any], where: str) -> None:
    verdicts, images = summary["verdicts"], summary["images"]
    if not isinstance(verdicts, Mapping):
        raise RunError(f'{where}: "verdicts" is {verdicts!r}, not counts by stage')
    for stage, counts in verdicts.items():
        if (
            not isinstance(counts, Mapping)
            or set(counts) != set(STATUSES)
            or not all(_is_count(counts[status]) for status in STATUSES)
        ):
            raise RunError(f"{where}: stage {stage!r} needs counts of {', '.join(STATUSES)}")
    if not verdicts:
        return
    total = sum(counts[status] for counts in verdicts.values() for status in STATUSES)
    if total != images:
        raise RunError(f"{where}: {total} verdicts do not add up to {images} images")
    verified = sum(counts["verified"] for counts in verdicts.values())
    certified = summary["certified_accuracy"]
    if certified is not None and abs(certified * images - verified) > 0.5:
        raise RunError(
            f'{where}: "certified_accuracy" {certified!r} of {images} images '
            f"does not agree with {verified} verified ones"
        )


def _check_cells(summary: Mapping[str, Any], where: str) -> None:
    cells, images = summary["cells"], summary["images"]
    if not isinstance(cells, Mapping) or not set(CELLS) <= set(cells):
        raise RunError(f'{where}: "cells" is {cells!r}; it needs {", ".join(CELLS)}')
    if not isinstance(cells["grid"], Mapping):
        raise RunError(f'{where}: "cells.grid" is {cells["grid"]!r}, not a grid')
    if cells["cell_accuracy"] != summary["natural_accuracy"]:
        raise RunError(
            f'{where}: "cells.cell_accuracy" {cells["cell_accuracy"]!r} is not the natural '
            f"accuracy {summary['natural_accuracy']!r}"
        )
    for key in ("pixels", "straddling_most", "without_straddling"):
        if not _is_count(cells[key]):
            raise RunError(f'{where}: "cells.{key}" is {cells[key]!r}, not a number of them')
    for key in ("straddling_share", "straddling_mean"):
        if not _is_number(cells[key]):
            raise RunError(f'{where}: "cells.{key}" is {cells[key]!r}, not a number')
    total, touched = cells["straddling_mean"] * images, images - cells["without_straddling"]
    slack = 1e-9 * max(1.0, total)  # of one count that was divided twice
    possible = 0 <= touched <= total + slack and cells["straddling_most"] <= cells["pixels"]
    if not possible or total > cells["straddling_most"] * touched + slack:
        raise RunError(f"{where}: the numbers of straddling pixels contradict each other: {cells}")
    if abs(cells["straddling_share"] * cells["pixels"] * images - total) > slack:
        raise RunError(
            f'{where}: "cells.straddling_share" {cells["straddling_share"]!r} does not agree with '
            f'"cells.straddling_mean" {cells["straddling_mean"]!r} of {cells["pixels"]} pixels'
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
