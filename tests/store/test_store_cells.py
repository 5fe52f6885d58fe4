"""The table `cells` of a summary: read back as written, refused where it cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from taut.errors import RunError
from taut.store import read_summary, write_summary

CELLS: dict[str, Any] = {
    "grid": {"emit": "ends", "n": 5, "offset": 0.0},
    "cell_accuracy": 0.9,
    "pixels": 784,
    "straddling_share": 0.25 / 784,
    "straddling_mean": 0.25,
    "straddling_most": 2,
    "without_straddling": 17,
}
SUMMARY: dict[str, Any] = {
    "natural_accuracy": 0.9, "attacked_accuracy": 0.8, "certified_accuracy": None, "images": 20,
    "eps": 0.1, "seconds": 1.0, "verdicts": {}, "cells": CELLS,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"grid": {"emit": "levels", "thresholds": [[0.1, 0.2], [0.3, 0.7]], "learn": True}},
        {"grid": {"emit": "levels", "n": [2, 3, 4], "offset": 0.5}},
        {"straddling_share": 0.0, "straddling_mean": 0.0, "straddling_most": 0,
         "without_straddling": 20},
        {"straddling_share": 1.0, "straddling_mean": 784.0, "straddling_most": 784,
         "without_straddling": 0},
    ],
)  # fmt: skip
def test_cells_read_back(tmp_path: Path, change: dict[str, Any]) -> None:
    written = {**SUMMARY, "cells": {**CELLS, **change}}
    write_summary(tmp_path / "summary.json", written)
    assert read_summary(tmp_path / "summary.json") == written


@pytest.mark.parametrize("total", [1, 7, 12345, 150_528 * 9_999])
def test_rounding_is_no_contradiction(tmp_path: Path, total: int) -> None:
    images, pixels = 10_000, 150_528
    cells = {**CELLS, "pixels": pixels, "straddling_mean": total / images,
             "straddling_share": total / images / pixels, "without_straddling": 0,
             "straddling_most": pixels}  # fmt: skip
    if total < images:
        cells["without_straddling"] = images - total
    write_summary(tmp_path / "summary.json", {**SUMMARY, "images": images, "cells": cells})
    assert read_summary(tmp_path / "summary.json")["cells"] == cells


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in CELLS.items() if name != key}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([], "cells"),
        *((without(key), key) for key in CELLS),
        ({**CELLS, "grid": 5}, "cells.grid"),
        ({**CELLS, "cell_accuracy": 0.95}, "natural accuracy"),
        ({**CELLS, "pixels": 784.5}, "cells.pixels"),
        ({**CELLS, "straddling_most": -1}, "cells.straddling_most"),
        ({**CELLS, "straddling_most": 785}, "contradict"),
        ({**CELLS, "without_straddling": 21}, "contradict"),
        ({**CELLS, "without_straddling": 14}, "contradict"),  # six images, five pixels
        ({**CELLS, "without_straddling": 18}, "contradict"),  # five pixels, two images of two
        ({**CELLS, "straddling_mean": math.nan}, "cells.straddling_mean"),
        ({**CELLS, "straddling_share": 0.1}, "straddling_share"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, cells: object, words: str) -> None:
    with pytest.raises(RunError, match=words):
        write_summary(tmp_path / "summary.json", {**SUMMARY, "cells": cells})
    assert not (tmp_path / "summary.json").exists()
