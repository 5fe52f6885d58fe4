"""The sample run as that of a network on cells: its numbers counted here, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sample_run import EPS, Case

from taut.report import ReportData
from taut.report.cells import chosen
from taut.report.data import CellView

N = 5


def cells_of(image: np.ndarray) -> np.ndarray:
    """Index of the cell of each value, of ``N`` even ones; an edge belongs to the cell above."""
    found: np.ndarray = np.minimum((image.astype(np.float64) * N + 1e-5).astype(int), N - 1)
    return found


def straddling(image: np.ndarray) -> np.ndarray:
    """Whether the two ends of a value's interval lie in different cells."""
    wide = image.astype(np.float64)
    found: np.ndarray = cells_of(np.maximum(wide - EPS, 0)) != cells_of(np.minimum(wide + EPS, 1))
    return found


def view(image: np.ndarray, other: np.ndarray | None) -> CellView:
    """What a report shows of an image and its counterexample."""
    moved = None if other is None else cells_of(other) - cells_of(image)
    return CellView(cells_of(image) / (N - 1), straddling(image), moved)


def on_cells(case: Case) -> ReportData:
    """The sample with the figures and views of a grid."""
    counts = [int(straddling(image).sum()) for image in case.images]
    told = {
        "grid": {"emit": "ends", "n": N, "offset": 0.0},
        "cell_accuracy": case.data.summary["natural_accuracy"],
        "pixels": 784,
        "straddling_share": sum(counts) / len(counts) / 784,
        "straddling_mean": sum(counts) / len(counts),
        "straddling_most": max(counts),
        "without_straddling": counts.count(0),
    }
    views = {}
    for verdict in chosen(case.data.verdicts):
        other = verdict.counterexample
        found = None if other is None else other.numpy()
        views[verdict.index] = view(case.images[verdict.index], found)
    return replace(case.data, summary={**case.data.summary, "cells": told}, cells=views)
