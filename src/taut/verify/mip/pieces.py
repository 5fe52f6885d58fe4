r"""Activations as rows and binaries.

A function of straight pieces with knees :math:`b_1 < \dots < b_m` inside :math:`[b_0, b_{m+1}]`
is walked from its lower end: :math:`w_i` of the i-th piece's length have been passed, and a piece
begins when the one before is complete, which binaries :math:`\delta_i` decide,

.. math:: z = b_0 + \sum_{i=0}^{m} w_i, \quad f(z) = f(b_0) + \sum_{i=0}^{m} s_i w_i, \quad
    (b_{i+1} - b_i)\, \delta_{i+1} \le w_i \le (b_{i+1} - b_i)\, \delta_i, \quad \delta_0 = 1 .

For a ReLU these are the rows of Tjeng et al. 2019 with :math:`w_1` for its value, for a ramp they
say :math:`\eta z + (1 - \eta)(\mathrm{relu}(z) - \mathrm{relu}(z - r))` with one binary for each
knee. With :math:`\delta_i \in [0, 1]` they describe the convex hull of the graph, for a ReLU the
triangle of Ehlers 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taut.operators.base import Activation
from taut.operators.forms import Bounds
from taut.operators.maximum import Maximum
from taut.operators.piecewise import PiecewiseLinear
from taut.operators.relu import ReLU
from taut.verify.mip.draft import Draft, Sparse, Terms
from taut.verify.mip.program import Flags, Floats, Ints

Read = Callable[[Flags], Terms]
"""Returns the inputs of an activation as values, flat; only those flagged are asked for, and the
others may be constants that mean nothing."""

_PAD = 1e-8
"""Relative width added to bounds, so that neither their rounding nor a solver that holds a row to
its feasibility tolerance (ten times smaller) cuts anything off."""

_KINDS = ("tight", "adaptive", "zero", "one")


def padded(lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    """Return slightly wider bounds."""
    pad = _PAD * (1.0 + np.maximum(np.abs(lower), np.abs(upper)))
    return lower - pad, upper + pad


def activation(draft: Draft, operator: Activation, bounds: Bounds, read: Read) -> Terms:
    """Add an activation to a draft; return its values, flat.

    Parameters
    ----------
    draft
        Gets variables and rows. It is no longer exact where the function is not made of
        straight pieces: then its values only keep to the lines of the operator.
    operator
        Any activation but :class:`~taut.operators.cells.Steps`.
    bounds
        Of its inputs, ``(1, *shape)`` in float64.
    read
        Gives the inputs.
    """
    if isinstance(operator, Maximum):
        return _maximum(draft, operator, bounds, read)
    if isinstance(operator, ReLU | PiecewiseLinear):
        return _pieces(draft, operator, bounds, read)
    return _lines(draft, operator, bounds, read)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Functions with the same number m of knees: ends and knees ``(k, m + 2)``, values there."""

    at: Floats
    values: Floats

    @property
    def lengths(self) -> Floats:
        return np.diff(self.at, axis=1)

    @property
    def slopes(self) -> Floats:
        lengths = self.lengths
        return np.diff(self.values, axis=1) / np.where(lengths > 0, lengths, 1.0)


def _pieces(draft: Draft, operator: ReLU | PiecewiseLinear, bounds: Bounds, read: Read) -> Terms:
    low, up = bounds.lower, bounds.upper
    knees = [low.new_zeros(())] if isinstance(operator, ReLU) else operator.knees(low)
    spread = torch.stack([k.expand_as(low) for k in knees]) if knees else low[None][:0]
    inside = (low < spread) & (spread < up)
    # Knees outside go to the end of the order; within it they are alike.
    ordered = spread.where(inside, torch.inf).sort(0).values
    count = flat(inside.sum(0))
    straight = _walk(operator, low, up, ordered[:0])
    needed = (count > 0) | (straight.slopes[:, 0] != 0)
    inputs = read(needed)
    slope, start = straight.slopes[:, 0], straight.at[:, 0]
    found = inputs.mapped(slope, straight.values[:, 0] - slope * start)
    for number in range(1, len(knees) + 1):
        chosen = count == number
        if chosen.any():
            wide = [torch.from_numpy(end).view_as(low) for end in padded(low.numpy(), up.numpy())]
            walk = _walk(operator, wide[0], wide[1], ordered[:number])
            bent = _bent(draft, _Walk(walk.at[chosen], walk.values[chosen]), inputs[chosen])
            found = found.put(chosen, bent)
    return found


def _walk(operator: Activation, low: Tensor, up: Tensor, knees: Tensor) -> _Walk:
    """Return ends and knees with the values there; elements of fewer knees mean nothing."""
    at = [low, *(k.where(torch.isfinite(k), up) for k in knees), up]
    return _Walk(
        np.stack([flat(z) for z in at], 1), np.stack([flat(operator.forward(z)) for z in at], 1)
    )


def _bent(draft: Draft, walk: _Walk, z: Terms) -> Terms:
    """Add functions of m knees each; ``z`` are their inputs ``(k,)``."""
    lengths, slopes, start = walk.lengths, walk.slopes, walk.at[:, 0]
    count, knees = lengths.shape[0], lengths.shape[1] - 1
    passed = draft.variables(np.zeros((count, knees)), lengths[:, 1:])
    begun = draft.choices((count, knees))
    free, one = np.full(count, np.inf), np.ones(count)
    rest = [(passed[:, i], -one) for i in range(knees)]
    low = start - z.shift
    draft.rows([(z.index, z.scale), *rest, (begun[:, 0], -lengths[:, 0])], low, free)
    draft.rows([(z.index, z.scale), *rest], -free, low + lengths[:, 0])
    for i in range(knees):
        draft.rows([(passed[:, i], one), (begun[:, i], -lengths[:, i + 1])], -free, 0 * one)
        if i + 1 < knees:
            draft.rows([(passed[:, i], one), (begun[:, i + 1], -lengths[:, i + 1])], 0 * one, free)
    first = slopes[:, 0]
    terms = [(z.index, first * z.scale)]
    terms += [(passed[:, i], slopes[:, i + 1] - first) for i in range(knees)]
    shift = walk.values[:, 0] + first * (z.shift - start)
    return draft.combined(shift, terms, *padded(walk.values.min(1), walk.values.max(1)))


def _maximum(draft: Draft, operator: Maximum, bounds: Bounds, read: Read) -> Terms:
    r"""Add maxima; candidates are the elements that may be larger than the best lower bound.

    .. math:: z_i \le m \le z_i + (1 - \delta_i)(\max_{j \ne i} u_j - l_i), \quad
        \sum_i \delta_i = 1

    Source: Tjeng et al. 2019, with the upper line of the operator added.
    """
    axis = operator.axis + 1
    best = bounds.lower.amax(axis, keepdim=True)
    leader = torch.zeros_like(bounds.lower, dtype=torch.bool).scatter(
        axis, bounds.lower.argmax(axis, keepdim=True), True
    )
    candidate = (bounds.upper > best) | leader
    inputs = read(flat(candidate))
    together = _Together(axis, bounds.lower)
    low, up = (together.groups(end) for end in padded(flat(bounds.lower), flat(bounds.upper)))
    taken = together.groups(flat(candidate))
    z = Terms(*(together.groups(each) for each in (inputs.index, inputs.scale, inputs.shift)))
    first = z[np.arange(len(taken)), taken.argmax(1)]
    many = taken.sum(1) > 1
    if not many.any():
        return first
    low, up, taken, z = low[many], up[many], taken[many], z[many]
    outside = np.where(taken, up, -np.inf)
    top = np.sort(outside, 1)
    others = np.where(outside == top[:, -1:], top[:, -2:-1], top[:, -1:])
    largest = draft.variables(low.max(1), up.max(1))
    group, member = taken.nonzero()
    chosen, size = draft.choices(group.shape), len(group)
    each, one = z[group, member], np.ones(size)
    gap = np.maximum(others[group, member] - low[group, member], 0.0)
    ahead = [(largest[group], one), (each.index, -each.scale)]
    draft.rows(ahead, each.shift, np.full(size, np.inf))
    draft.rows([*ahead, (chosen, gap)], np.full(size, -np.inf), each.shift + gap)
    exactly = np.ones(len(largest))
    draft.sparse_rows(Sparse.gathered(group, chosen, one, 0 * exactly), exactly, exactly)
    lines = operator.lines(bounds, "tight")
    assert lines.upper_intercept is not None
    slope = together.groups(flat(lines.upper_slope))[many]
    _below(draft, largest, slope, z, flat(lines.upper_intercept)[many])
    return first.put(many, Terms.variables(largest))


def _lines(draft: Draft, operator: Activation, bounds: Bounds, read: Read) -> Terms:
    """Add values that only have to keep between the lines of the operator."""
    draft.exact = False
    image = operator.image(bounds)
    ends = flat(image.lower), flat(image.upper)
    inputs = read(np.ones(bounds.lower.numel(), dtype=np.bool_))
    z = Terms(inputs.index[:, None], inputs.scale[:, None], inputs.shift[:, None])
    together = _Together(None, bounds.lower)
    if operator.axis is not None:
        together = _Together(operator.axis + 1, bounds.lower)
        z = Terms(*(together.groups(each) for each in (inputs.index, inputs.scale, inputs.shift)))
    values = draft.variables(*padded(*ends))
    for kind in _KINDS:
        lines = operator.lines(bounds, kind)
        for sign, slope, shift in (
            (-1.0, lines.lower_slope, lines.lower_intercept),
            (1.0, lines.upper_slope, lines.upper_intercept),
        ):
            level = np.zeros(len(values)) if shift is None else flat(shift)
            _below(draft, values, together.groups(flat(slope)), z, level, sign)
    return Terms.variables(values)


def _below(
    draft: Draft, values: Ints, slope: Floats, z: Terms, shift: Floats, sign: float = 1.0
) -> None:
    """Add ``sign * value <= sign * (slopes * inputs + shift)``; slopes and inputs ``(k, n)``."""
    level = shift + (slope * z.shift).sum(1)
    usable = np.isfinite(level) & np.isfinite(slope).all(1)
    if not usable.any():
        return
    slope, z, values, level = slope[usable], z[usable], values[usable], level[usable]
    one = np.full(len(values), sign)
    terms = [(z.index[:, i], -sign * slope[:, i] * z.scale[:, i]) for i in range(slope.shape[1])]
    draft.rows([(values, one), *terms], np.full(len(values), -np.inf), sign * level)


@dataclass(frozen=True)
class _Together:
    """How elements of a node are grouped: along an axis of the tensor, or each for itself."""

    axis: int | None
    like: Tensor

    def groups(self, values: np.ndarray) -> np.ndarray:
        """Return flat values as ``(groups, members)``."""
        if self.axis is None:
            return values.reshape(-1, 1)
        shaped = np.moveaxis(values.reshape(self.like.shape), self.axis, -1)
        return np.ascontiguousarray(shaped).reshape(-1, self.like.shape[self.axis])


def flat(values: Tensor) -> np.ndarray:
    """Return the elements of one image as numpy's."""
    found: np.ndarray = values.detach().reshape(-1).numpy()
    return found
