"""Cells of pixels as binaries, and the images that binaries stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taut.operators.cells import Steps
from taut.operators.forms import Bounds
from taut.region import Box
from taut.verify.mip.draft import Draft, Terms
from taut.verify.mip.pieces import flat, padded
from taut.verify.mip.program import Floats, Ints

_OFF = 2.0**-18
"""How far realised pixels keep off the edges of their cells."""


@dataclass(frozen=True, eq=False)
class Crossings:
    """The thresholds that pixels can cross, as binaries :math:`s_k = [x \\ge t_k]`.

    Attributes
    ----------
    operator
        The steps they belong to.
    first
        Index of the lowest cell of each pixel that can be reached, ``(pixels,)``.
    pixel, threshold, level, choice
        Pixel, place of the threshold in its row, threshold and binary of each crossing,
        by pixels and from the lowest threshold on.
    """

    operator: Steps
    first: Ints
    pixel: Ints
    threshold: Ints
    level: Floats
    choice: Ints

    def cells(self, point: Floats) -> Ints:
        """Return the cells ``(pixels,)`` that a point of the program stands for."""
        taken = np.round(point[self.choice]).astype(np.int64)
        return self.first + np.bincount(self.pixel, taken, len(self.first)).astype(np.int64)

    def realised(self, point: Floats, inner: Box, near: Tensor) -> Tensor:
        """Return the image in the box of one image with those cells, about nearest ``near``.

        Where there is room it keeps off the edges of cells, so that a rounding to another
        precision changes none of them.
        """
        cells = torch.from_numpy(self.cells(point)).view_as(near).to(near.device)
        bounds = Bounds(inner.lower, inner.upper)
        cells = cells.clamp(self.operator.cell(bounds.lower), self.operator.cell(bounds.upper))
        low, up = (self.operator.realised(cells, bounds, end) for end in (inner.lower, inner.upper))
        off = ((up - low) / 2).clamp(max=_OFF)
        aside = torch.minimum(torch.maximum(near, low + off), up - off)
        return self.operator.realised(cells, bounds, aside)


def crossings(draft: Draft, operator: Steps, bounds: Bounds, pixels: Terms | None) -> Crossings:
    r"""Add a binary for each threshold that a pixel can cross.

    .. math:: s_1 \ge s_2 \ge \dots, \qquad l + (t_k - l) s_k \le x \le t_k + (u - t_k) s_k

    Parameters
    ----------
    draft
        Gets variables and rows.
    operator
        The steps.
    bounds
        Of the pixels, exact, ``(1, *shape)``.
    pixels
        The pixels as values, where something besides steps of these thresholds reads them;
        None leaves them out, and the second kind of rows with them.
    """
    lowest, highest = (flat(operator.cell(end)) for end in (bounds.lower, bounds.upper))
    pixel = np.repeat(np.arange(len(lowest)), highest - lowest)
    ahead = np.cumsum(highest - lowest) - (highest - lowest)
    threshold = lowest[pixel] + np.arange(len(pixel)) - ahead[pixel]
    shape = bounds.lower.shape[1:]
    rows = operator.thresholds.expand(shape[0], -1).numpy()
    channel = pixel // (int(np.prod(shape)) // shape[0])
    level = rows[channel, threshold].astype(np.float64)
    choice = draft.choices(pixel.shape)
    follows = np.flatnonzero(np.diff(pixel) == 0)
    one = np.ones(len(follows))
    draft.rows([(choice[follows], one), (choice[follows + 1], -one)], 0 * one, np.inf * one)
    if pixels is not None:
        x, one = pixels[pixel], np.ones(len(pixel))
        low, up = (flat(end)[pixel] for end in (bounds.lower, bounds.upper))
        base = (x.index, x.scale)
        draft.rows([base, (choice, low - level)], low - x.shift, np.inf * one)
        draft.rows([base, (choice, level - up)], -np.inf * one, level - x.shift)
    return Crossings(operator, lowest, pixel, threshold, level, choice)


def steps(draft: Draft, operator: Steps, crossed: Crossings, shape: tuple[int, ...]) -> Terms:
    """Add the values of cells, flat: the lowest reachable one and the jumps up to the pixel's."""
    heights = operator.values.expand(shape[0], -1).numpy().astype(np.float64)
    count = len(crossed.first)
    channel = np.arange(count) // (count // shape[0])
    base = heights[channel, crossed.first]
    number = np.bincount(crossed.pixel, minlength=count)
    place = crossed.threshold - crossed.first[crossed.pixel]
    jump = np.diff(heights, axis=1)[channel[crossed.pixel], crossed.threshold]
    width = max(1, int(number.max(initial=0)))
    index, scale = np.full((width, count), -1, np.int64), np.zeros((width, count))
    index[place, crossed.pixel], scale[place, crossed.pixel] = crossed.choice, jump
    return draft.combined(
        base, list(zip(index, scale, strict=True)), *padded(base, base + scale.sum(0))
    )
