r"""The convex hull of two neurons before and after their activation, over an octagon.

With :math:`y_i = f_i(z_i)` of straight pieces and z in the octagon

.. math:: l \le (z_1,\; z_2,\; z_1 + z_2,\; z_1 - z_2) \le u

the hull of all :math:`(z, y)` is that of finitely many points: the corners of the octagon, the
places where its edges cross a knee, and where two knees cross. A facet :math:`P z + Q y \le r` of
it says what the lines of single neurons do not, as far as the octagon is less than its box.
Everything is computed in float64. Whatever coefficients the search for facets comes up with,
``r`` is the largest value at those points plus what rounding may have taken off, so a facet
holds even where the search was inexact.
Source: Singh et al. 2019 (k-ReLU); Mueller et al. 2022 (PRIMA).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 1e-4  # least width of a sum or difference, relative to the largest coordinate
_FLAT = 1e-7  # volume below which four points determine no facet, in a unit cube
_TOUCH = 1e-8  # how far from a facet a point may lie that belongs to it, in a unit cube
_SAME = 1e-5  # how much the coefficients of two facets differ at least
_UNITS = 128 * torch.finfo(torch.float64).eps  # rounding of a value, relative to its summands
_NUMBERS = 2**18  # float64 numbers the search holds in one table, so that caches serve


@dataclass(frozen=True, eq=False)
class Octagon:
    """Bounds of ``z_1, z_2, z_1 + z_2, z_1 - z_2``, float64 ``(N, 4)`` each."""

    lower: Tensor
    upper: Tensor

    def closed(self) -> Octagon:
        """Return the same set by its least bounds; sums and differences get a least width.

        A direction of two neurons is bounded by its own bound, or by two others that it is
        between: :math:`z_1 = (z_1 - z_2) + z_2`, and so on. A strip without width, such as that
        of a neuron and its copy, is widened, for a hull without volume has no facets.
        """
        size = torch.maximum(self.lower.abs(), self.upper.abs())[:, :2].amax(1, keepdim=True)
        spread = 0.5 * _LEAST * size * torch.tensor([0.0, 0.0, 1.0, 1.0]).to(size)
        middle = torch.lerp(self.lower, self.upper, 0.5)
        low = torch.minimum(self.lower, middle - spread)
        high = torch.maximum(self.upper, middle + spread)
        (x0, y0, s0, d0), (x1, y1, s1, d1) = low.unbind(1), high.unbind(1)
        least = [
            _most(x0, s0 - y1, d0 + y0, (s0 + d0) / 2),
            _most(y0, s0 - x1, x0 - d1, (s0 - d1) / 2),
            _most(s0, x0 + y0, 2 * x0 - d1, 2 * y0 + d0),
            _most(d0, x0 - y1, 2 * x0 - s1, s0 - 2 * y1),
        ]
        most = [
            -_most(-x1, y0 - s1, -d1 - y1, -(s1 + d1) / 2),
            -_most(-y1, x0 - s1, d0 - x1, (d0 - s1) / 2),
            -_most(-s1, -x1 - y1, d0 - 2 * x1, -2 * y1 - d1),
            -_most(-d1, y0 - x1, s0 - 2 * x1, 2 * y0 - s1),
        ]
        return Octagon(torch.stack(least, 1), torch.stack(most, 1))

    def corners(self) -> Tensor:
        """Return the corners of a closed octagon, some of them twice, ``(N, 8, 2)``."""
        (x0, y0, s0, d0), (x1, y1, s1, d1) = self.lower.unbind(1), self.upper.unbind(1)
        first = [x1, x1, s1 - y1, d0 + y1, x0, x0, s0 - y0, d1 + y0]
        second = [x1 - d1, s1 - x1, y1, y1, x0 - d0, s0 - x0, y0, y0]
        return torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 2)

    def across(self, at: Tensor, neuron: int) -> tuple[Tensor, Tensor]:
        """Return the ends of the other neuron's values where this one's is ``at (N, K)``."""
        (x0, y0, s0, d0), (x1, y1, s1, d1) = (
            [end[:, None] for end in ends.unbind(1)] for ends in (self.lower, self.upper)
        )
        if neuron == 0:
            return _most(y0, s0 - at, at - d1), -_most(-y1, at - s1, d0 - at)
        return _most(x0, s0 - at, at + d0), -_most(-x1, at - s1, -at - d1)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pairs of functions of straight pieces: ``values`` at ``spots``, ``(N, 2, S)`` each.

    Spots ascend from the lower end of an interval over the knees inside to the upper end; knees
    outside lie at the ends.
    """

    spots: Tensor
    values: Tensor

    def at(self, z: Tensor) -> Tensor:
        """Return the functions' values at points ``(N, M, 2)``."""
        spots, values = self.spots.transpose(1, 2), self.values.transpose(1, 2)
        slopes = self.slopes.transpose(1, 2)
        found = values[:, :1] + slopes[:, :1] * (z - spots[:, :1])
        for k in range(1, slopes.shape[1]):
            here = values[:, k : k + 1] + slopes[:, k : k + 1] * (z - spots[:, k : k + 1])
            found = torch.where(z > spots[:, k : k + 1], here, found)
        return found

    @property
    def slopes(self) -> Tensor:
        """The slopes between spots, ``(N, 2, S - 1)``; 0 where two are in one place."""
        width = self.spots.diff(dim=2)
        return torch.where(width > 0, self.values.diff(dim=2) / width, 0.0)


@dataclass(frozen=True, eq=False)
class Hull:
    """Facets ``P z + Q y <= r`` of pairs: before ``(N, F, 2)``, after ``(N, F, 2)``, ``(N, F)``.

    The larger entry of Q is 1 or -1. Where a pair has fewer facets the rest is zero.
    """

    before: Tensor
    after: Tensor
    limit: Tensor


Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What facets are worth: called with P and Q ``(n, C, 2)``, r ``(n, C)`` and the numbers ``(n,)``
of their pairs; returns ``(n, C)``."""


def points(octagon: Octagon, pieces: Pieces) -> Tensor:
    """Return points ``(z, y)`` whose hull is that of the graph, ``(N, M, 4)``, some repeated."""
    corners = octagon.corners()
    low, high = octagon.lower[:, None, :2], octagon.upper[:, None, :2]
    corners = torch.minimum(torch.maximum(corners, low), high)
    knees = pieces.spots[:, :, 1:-1]
    found, inside = [corners], []
    for neuron in range(2):
        at = knees[:, neuron]
        inside.append((octagon.lower[:, neuron, None] < at) & (at < octagon.upper[:, neuron, None]))
        for end in octagon.across(at, neuron):
            pair = (at, end) if neuron == 0 else (end, at)
            point = torch.stack(pair, 2)
            found.append(torch.where(inside[neuron][..., None], point, corners[:, :1]))
    least, most = octagon.across(knees[:, 0], 0)
    second = knees[:, 1, None, :]
    there = (least[..., None] <= second) & (second <= most[..., None]) & inside[0][..., None]
    both = torch.stack(torch.broadcast_tensors(knees[:, 0, :, None], second), 3)
    both = torch.where(there[..., None], both, corners[:, :1, None])
    z = torch.cat([*found, both.flatten(1, 2)], 1)
    return torch.cat([z, pieces.at(z)], 2)


def hull(octagon: Octagon, pieces: Pieces, count: int, score: Score, dtype: torch.dtype) -> Hull:
    """Return the ``count`` facets of each pair that score most, above zero, as ``dtype``.

    ``octagon`` is closed. Facets about z alone are no facets here, and neither are those that
    the hulls of the single neurons imply.
    """
    corners = points(octagon, pieces)
    places = corners.shape[1]
    step = max(1, _NUMBERS // (places * len(_fours(places))))
    found = []
    for some in torch.arange(len(corners), device=corners.device).split(step):
        found.append(_best(corners[some], count, score, some))
    if not found:
        blank = corners.new_zeros(0, count, 2, dtype=dtype)
        return Hull(blank, blank, blank[..., 0])
    chosen = torch.cat(found)
    before, after = chosen.to(dtype).split(2, 2)
    limit = supported(corners, pieces, before, after)
    implied = _singly(pieces, before.double(), after.double())
    size = (before.abs() + after.abs()).sum(2).double()
    slight = implied - limit <= 1e-9 * size * _scale(corners)[:, None]
    bare = slight | (size == 0) | ~limit.isfinite()
    before, after = (t.masked_fill(bare[..., None], 0.0) for t in (before, after))
    return Hull(before, after, _up(limit, dtype).masked_fill(bare, 0.0))


def supported(corners: Tensor, pieces: Pieces, before: Tensor, after: Tensor) -> Tensor:
    """Return the least r, but for rounding, with which P z + Q y <= r holds, float64 ``(N, F)``.

    ``corners`` are the :func:`points`. A corner may be off by its last bits, and a value then by
    as much times the steepest piece.
    """
    normal = torch.cat([before, after], 2).double()
    most = torch.bmm(normal, corners.transpose(1, 2)).amax(2)
    steep = pieces.slopes.abs().amax(2).clamp(min=1)[:, None]
    size = normal[..., :2].abs().sum(2) + (normal[..., 2:].abs() * steep).sum(2)
    return most + _UNITS * size * _scale(corners)[:, None]


def _scale(corners: Tensor) -> Tensor:
    return corners.abs().amax((1, 2))


def _singly(pieces: Pieces, before: Tensor, after: Tensor) -> Tensor:
    """Return the largest P z + Q y over the product of the single neurons' hulls, ``(N, F)``."""
    each = before[..., None] * pieces.spots[:, None] + after[..., None] * pieces.values[:, None]
    return each.amax(3).sum(2)


def _best(corners: Tensor, count: int, score: Score, which: Tensor) -> Tensor:
    """Return the best different facets of some pairs, ``(n, count, 4)``, zero where too few."""
    low = corners.amin(1, keepdim=True)
    width = corners.amax(1, keepdim=True) - low
    width = torch.where(width > 0, width, 1.0)
    planes, valid = _planes((corners - low) / width)
    most = max(1, int(valid.sum(1).max()))
    valid, order = valid.to(torch.uint8).topk(most, 1)
    normals = planes.gather(1, order[..., None].expand(-1, -1, 4)) / width
    largest = normals[..., 2:].abs().amax(2, keepdim=True)
    proper = (valid > 0) & (largest[..., 0] * width[..., 2:].amin(2) > _SAME)
    normals = normals / torch.where(proper[..., None], largest, 1.0)
    limit = torch.bmm(normals, corners.transpose(1, 2)).amax(2)
    worth = score(normals[..., :2], normals[..., 2:], limit, which)
    worth = worth.where(proper, -torch.inf)
    chosen = []
    for _ in range(count):
        best = worth.max(1)
        facet = normals.gather(1, best.indices[:, None, None].expand(-1, 1, 4))
        chosen.append(facet.where((best.values > 0)[:, None, None], 0.0))
        apart = ((normals - facet) * width).abs().amax(2) / width[..., 2:].amax(2)
        worth = worth.where(apart > _SAME, -torch.inf)
    return torch.cat(chosen, 1)


def _planes(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return a normal for each four of the points ``(n, M, 4)``, and which hold the others.

    Normals ``(n, C, 4)`` of length one point away from them.
    """
    fours = _fours(unit.shape[1]).to(unit.device)
    first = unit[:, fours[:, 0]]
    a, b, c = (unit[:, fours[:, k]] - first for k in (1, 2, 3))
    normal = _cross(a, b, c)
    length = normal.norm(dim=2, keepdim=True)
    solid = length[..., 0] > _FLAT
    normal = normal / length.clamp(min=_FLAT)
    over = torch.bmm(normal, unit.transpose(1, 2)) - (normal * first).sum(2, keepdim=True)
    below, above = over.amax(2) <= _TOUCH, over.amin(2) >= -_TOUCH
    normal = torch.where((above & ~below)[..., None], -normal, normal)
    return normal, solid & (below | above)


def _cross(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the vector orthogonal to three of ``(..., 4)``, their minors with signs."""
    (a0, a1, a2, a3), (b0, b1, b2, b3) = a.unbind(-1), b.unbind(-1)
    c0, c1, c2, c3 = c.unbind(-1)
    m01, m02, m03 = a0 * b1 - a1 * b0, a0 * b2 - a2 * b0, a0 * b3 - a3 * b0
    m12, m13, m23 = a1 * b2 - a2 * b1, a1 * b3 - a3 * b1, a2 * b3 - a3 * b2
    return torch.stack(
        [
            c1 * m23 - c2 * m13 + c3 * m12,
            c2 * m03 - c0 * m23 - c3 * m02,
            c0 * m13 - c1 * m03 + c3 * m01,
            c1 * m02 - c0 * m12 - c2 * m01,
        ],
        -1,
    )


def _fours(count: int) -> Tensor:
    """Return all choices of four numbers below ``count``, ``(C, 4)``."""
    return torch.combinations(torch.arange(count), 4)


def _most(*values: Tensor) -> Tensor:
    found = values[0]
    for value in values[1:]:
        found = torch.maximum(found, value)
    return found


def _up(limit: Tensor, dtype: torch.dtype) -> Tensor:
    """Round up to another type."""
    found = limit.to(dtype)
    above = torch.nextafter(found, torch.full_like(found, torch.inf))
    return torch.where(found.double() < limit, above, found)
