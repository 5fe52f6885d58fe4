"""Exact minima over boxes of which two inputs move: the plane is cut along every bend.

Where all bends are on one side of a polygon the network is affine on it, and the largest of some
affine functions has its least value at a corner, once the polygon is cut where two of them are
equal. A network is a list of layers as in ``mip_reference``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from mip_reference import Layer

from taut.region import Box

_THIN = 1e-13
"""A line that goes less deep into a polygon does not cut it."""


class Cell(NamedTuple):
    """A polygon, corners ``(m, 2)`` in order; on it the neurons are ``slope x + shift``."""

    corners: np.ndarray
    slope: np.ndarray
    shift: np.ndarray


def parts(corners: np.ndarray, form: np.ndarray, level: float) -> list[np.ndarray]:
    """Cut a polygon along ``form x = level``."""
    value = corners @ form - level
    depth = _THIN * (1.0 + np.abs(value).max())
    if value.min() >= -depth or value.max() <= depth:
        return [corners]
    found = []
    for side in (value, -value):
        kept = []
        for i in range(len(corners)):
            j = (i + 1) % len(corners)
            if side[i] >= 0:
                kept.append(corners[i])
            if side[i] * side[j] < 0:
                share = side[i] / (side[i] - side[j])
                kept.append(corners[i] + share * (corners[j] - corners[i]))
        found.append(np.array(kept))
    return found


def cells(layers: Sequence[Layer], box: Box) -> Iterator[Cell]:
    """Yield polygons that make up the box, and the outputs on each."""
    low, high = (end[0].flatten().double().numpy() for end in (box.lower, box.upper))
    (moving,) = (low < high).nonzero()
    assert len(moving) == 2
    (a, b), (c, d) = low[moving], high[moving]
    square = np.array([[a, b], [c, b], [c, d], [a, d]])
    fixed = low.copy()
    fixed[moving] = 0.0
    yield from _behind(layers, 0, Cell(square, np.eye(len(low))[:, moving], fixed))


def _behind(layers: Sequence[Layer], depth: int, cell: Cell) -> Iterator[Cell]:
    if depth == len(layers):
        yield cell
        return
    layer = layers[depth]
    slope, shift = layer.matrix @ cell.slope, layer.matrix @ cell.shift + layer.bias
    pieces = [cell.corners]
    for form, constant, (eta, *knees) in zip(slope, shift, layer.bends, strict=True):
        for knee in knees if eta != 1.0 else ():
            if math.isfinite(knee):
                pieces = [part for piece in pieces for part in parts(piece, form, knee - constant)]
    eta, left, right = (np.array(column) for column in zip(*layer.bends, strict=True))
    for piece in pieces:
        middle = slope @ piece.mean(0) + shift
        inside = (left < middle) & (middle < right)
        factor = np.where(inside, 1.0, eta)
        level = np.where(
            inside, 0.0, (1 - eta) * np.where(eta == 1, 0.0, np.clip(middle, left, right))
        )
        yield from _behind(
            layers, depth + 1, Cell(piece, factor[:, None] * slope, factor * shift + level)
        )


def least(
    layers: Sequence[Layer], groups: Sequence[tuple[np.ndarray, np.ndarray]], box: Box
) -> float:
    """Return the least value, over the box and the groups, of a group's largest row.

    A group is rows ``(r, outputs)`` and right-hand sides ``(r,)``; a row is ``a z - b``.
    """
    best = math.inf
    for cell in cells(layers, box):
        for rows, sides in groups:
            slope, shift = rows @ cell.slope, rows @ cell.shift - sides
            pieces = [cell.corners]
            for i, j in itertools.combinations(range(len(rows)), 2):
                level = float(shift[j] - shift[i])
                pieces = [p for piece in pieces for p in parts(piece, slope[i] - slope[j], level)]
            for piece in pieces:
                best = min(best, float((piece @ slope.T + shift).max(1).min()))
    return best


def margins(label: int, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return "another class is as large as the label" as groups."""
    eye, none = np.eye(classes), np.zeros(1)
    return [(eye[[label]] - eye[[j]], none) for j in range(classes) if j != label]
