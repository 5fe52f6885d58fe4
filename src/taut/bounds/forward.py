r"""Linear bounds carried forward: LBP.

Every node is enclosed between two linear functions of the input,
:math:`\underline W x + \underline b \le z \le \overline W x + \overline b`, kept as midpoint
and half difference, :math:`(M, D)`. An affine node maps them to :math:`(W M, |W| D)`, which is
:math:`W^+ \underline W + W^- \overline W` and its mirror image; an activation multiplies by the
slopes of its lines. Source: Lyu et al. 2021, section 3 (LBP); the forward mode of
Xu et al. 2020 is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.bounds.budget import BudgetError
from taut.bounds.form import Form
from taut.bounds.interval import Intermediate
from taut.graph.network import Network, Node
from taut.operators.base import Activation, Affine
from taut.operators.forms import Bounds, Lines
from taut.region import Region

_COPIES = 5  # a state, its image and the temporaries of an activation


@dataclass(frozen=True, eq=False)
class LinearBounds:
    """Two linear functions of the input that enclose a node.

    ``middle`` and ``spread`` hold the coefficients of some input pixels, ``(B, n, *shape)``
    with n of them (B may be 1: the same for all images; a spread of None is zero);
    ``center`` and ``radius`` the constants, ``(B, *shape)``. The lower function is the
    difference of each pair, the upper one the sum. Half differences may be negative.
    """

    middle: Tensor
    spread: Tensor | None
    center: Tensor
    radius: Tensor


class Sweep:
    """Carries linear bounds of one batch from the input towards the logits.

    Where all coefficients fit the budget they are carried from layer to layer; else, over
    a box, the input pixels are taken in pieces, each carried from the input anew to every
    layer that is asked for.

    Parameters
    ----------
    net
        The network.
    region
        Input sets of the batch.
    budget
        Bytes for the coefficients.
    kept
        Nodes that are asked for more than once; all others are let go behind the front.

    """

    def __init__(self, net: Network, region: Region, budget: int, kept: frozenset[int]) -> None:
        self.net, self.region, self.kept = net, region, kept
        pixels = torch.Size(net.input_shape).numel()
        size = len(region) * numbers_per_pixel(net, kept) * region.box.lower.element_size()
        step = min(pixels, budget // max(1, size))
        if step < pixels and not region.exact_box:
            raise BudgetError(
                f"linear bounds over a ball need {size * pixels / 2**20:.0f} MB an image, above "
                f"the budget of {budget / 2**20:.0f} MB; raise it or choose crown-ibp or crown"
            )
        step = max(1, step)
        self.pieces = [slice(at, min(at + step, pixels)) for at in range(0, pixels, step)]
        self._states: dict[int, LinearBounds] = {}
        self._lines: dict[int, Lines] = {}

    def at(
        self, inter: Intermediate, index: int, kind: str
    ) -> Iterator[tuple[slice, LinearBounds]]:
        """Return the linear bounds of a node, piece by piece of the input's pixels."""
        for piece in self.pieces:
            states = self._states if len(self.pieces) == 1 else {}
            self._carry(states, piece, inter, index, kind)
            yield piece, states[index]

    def bounds(self, inter: Intermediate, index: int, kind: str) -> Bounds:
        """Return the ranges of a node's linear bounds over the region."""
        total: Bounds | None = None
        for piece, state in self.at(inter, index, kind):
            found = self._ranges(piece, state)
            if total is None:
                total = Bounds(
                    found.lower + (state.center - state.radius),
                    found.upper + (state.center + state.radius),
                )
            else:
                total = Bounds(total.lower + found.lower, total.upper + found.upper)
        assert total is not None
        return total

    def land(self, inter: Intermediate, node: Node, form: Form, kind: str) -> tuple[Form, Tensor]:
        """Replace a node by its linear bounds in a form of one group per image."""
        rows = form.dense(node.shape).rows.flatten(2)
        size = rows.abs()
        parts, constant = [], None
        for _, state in self.at(inter, node.index, kind):
            part = rows @ state.middle.flatten(2).transpose(1, 2)
            if state.spread is not None:
                part = part - size @ state.spread.flatten(2).transpose(1, 2)
            parts.append(part)
            if constant is None:
                constant = (rows @ state.center.flatten(1).unsqueeze(2)).squeeze(2)
                constant = constant - (size @ state.radius.flatten(1).unsqueeze(2)).squeeze(2)
        assert constant is not None
        return Form(torch.cat(parts, 2).unflatten(2, self.net.input_shape)), constant

    def _ranges(self, piece: slice, state: LinearBounds) -> Bounds:
        """Return the ranges of the coefficients' part over the region."""
        shape = state.center.shape
        low, up = state.middle, state.middle
        if state.spread is not None:
            low, up = low - state.spread, up + state.spread
        if self.region.exact_box:
            box = self.region.box
            center = box.center.flatten(1)[:, piece].unsqueeze(1)
            radius = box.radius.flatten(1)[:, piece].unsqueeze(1)
            low, up = low.flatten(2), up.flatten(2)
            lower = center @ low - radius @ low.abs()
            return Bounds(lower.view(shape), (center @ up + radius @ up.abs()).view(shape))

        def least(rows: Tensor) -> Tensor:
            rows = rows.flatten(2).transpose(1, 2).unflatten(2, self.net.input_shape)
            return self.region.minimum(rows.expand(len(self.region), *rows.shape[1:]))

        return Bounds(least(low).view(shape), -least(-up).view(shape))

    def _carry(
        self,
        states: dict[int, LinearBounds],
        piece: slice,
        inter: Intermediate,
        index: int,
        kind: str,
    ) -> None:
        """Carry the states on until that of node ``index`` is among them."""
        if index in states:
            return
        if not states:
            states[0] = self._input(piece)
        start, last = max(states) + 1, last_readers(self.net)
        for node in self.net.nodes[start : index + 1]:
            found = [states[i] for i in node.inputs]
            if isinstance(node.operator, Activation):
                if node.index not in self._lines:
                    known = inter.at(node.inputs[0])
                    self._lines[node.index] = node.operator.lines(known, kind)
                states[node.index] = _through_lines(
                    found[0], self._lines[node.index], node.operator.axis
                )
            else:
                assert isinstance(node.operator, Affine)
                states[node.index] = _through_affine(node.operator, found)
            for source in {*node.inputs} - self.kept:
                if last[source] <= node.index:
                    del states[source]

    def _input(self, piece: slice) -> LinearBounds:
        """Return the input as a linear function of some of its own pixels."""
        like = self.region.box.lower
        pixels = torch.Size(self.net.input_shape).numel()
        unit = torch.eye(pixels, dtype=like.dtype, device=like.device)[piece]
        zero = torch.zeros_like(like)
        return LinearBounds(unit.view(1, -1, *self.net.input_shape), None, zero, zero)


def _through_affine(operator: Affine, inputs: list[LinearBounds]) -> LinearBounds:
    """Map linear bounds by an affine node."""
    batch = max(len(found.middle) for found in inputs)
    pixels = inputs[0].middle.shape[1]

    def flat(tensor: Tensor) -> Tensor:
        return tensor.expand(batch, *tensor.shape[1:]).flatten(0, 1)

    middle = operator.linear(*(flat(found.middle) for found in inputs))
    spread: Tensor | None = None
    if any(found.spread is not None for found in inputs):
        spread = operator.magnitude(
            *(flat(torch.zeros_like(f.middle) if f.spread is None else f.spread) for f in inputs)
        ).unflatten(0, (batch, pixels))
    return LinearBounds(
        middle.unflatten(0, (batch, pixels)),
        spread,
        operator.forward(*(found.center for found in inputs)),
        operator.magnitude(*(found.radius for found in inputs)),
    )


def _through_lines(state: LinearBounds, lines: Lines, axis: int | None) -> LinearBounds:
    r"""Map linear bounds by an activation between its lines.

    The lower function becomes :math:`s_L M - |s_L| D`, the upper one :math:`s_U M + |s_U| D`:
    where a slope is negative the function of the other side counts.
    """
    low, up = lines.lower_slope, lines.upper_slope
    mean, half = (low + up) / 2, (up - low) / 2
    if state.spread is None:
        middle = state.middle * mean.unsqueeze(1)
        spread = state.middle * half.unsqueeze(1)
    else:
        skew, size = (up.abs() - low.abs()) / 2, (up.abs() + low.abs()) / 2
        middle = torch.addcmul(state.middle * mean.unsqueeze(1), state.spread, skew.unsqueeze(1))
        spread = torch.addcmul(state.middle * half.unsqueeze(1), state.spread, size.unsqueeze(1))
    below = low * state.center - low.abs() * state.radius
    above = up * state.center + up.abs() * state.radius
    if axis is not None:
        middle, spread = middle.sum(axis + 2), spread.sum(axis + 2)
        below, above = below.sum(axis + 1), above.sum(axis + 1)
    if lines.lower_intercept is not None:
        below = below + lines.lower_intercept
    if lines.upper_intercept is not None:
        above = above + lines.upper_intercept
    return LinearBounds(middle, spread, (below + above) / 2, (above - below) / 2)


def last_readers(net: Network) -> dict[int, int]:
    """Return for each node the last one that reads it (itself for the logits)."""
    last = {node.index: node.index for node in net.nodes}
    for node in net.nodes:
        for source in node.inputs:
            last[source] = node.index
    return last


def numbers_per_pixel(net: Network, kept: frozenset[int]) -> int:
    """Return how many numbers linear bounds take at once, per image and input pixel."""
    last, alive, most = last_readers(net), dict[int, int](), 0
    for node in net.nodes:
        size = torch.Size(node.shape).numel()
        alive[node.index] = 2 * size
        inputs = sum(alive[i] for i in node.inputs)
        most = max(most, sum(alive.values()) + _COPIES * size + inputs)
        for source in {*node.inputs} - kept:
            if last[source] <= node.index:
                del alive[source]
    return most
