"""A network over a box as rows of a program."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from taut.bounds import Intermediate
from taut.bounds.backward import Landed, substitute
from taut.bounds.form import Form
from taut.graph import Network
from taut.graph.network import Node
from taut.operators.base import Activation
from taut.operators.cells import Steps
from taut.operators.forms import Bounds, Lines
from taut.region import Box
from taut.verify.mip.cells import Crossings, crossings, steps
from taut.verify.mip.draft import CONSTANT, Draft, Sparse, Terms
from taut.verify.mip.pieces import activation, flat, padded
from taut.verify.mip.program import Flags, Floats, Program

_CHUNK = 2**22
"""Numbers that rows on their way back may take together."""


class Encoding:
    """The points of a network over one box as a polyhedron with integers.

    Variables are the pixels, those inputs of activations that can move, and what the activations
    make of them; everything affine in between is merged into rows by the operators' own
    transposes. Neurons that are stable on the bounds given take neither binary nor row of their
    own, and constants no variable. Where all activations are made of straight pieces or jump
    between cells, the polyhedron's points are those of the network and no others
    (:attr:`exact`); others keep between their lines.

    Parameters
    ----------
    net
        The network, in float64 on the CPU.
    known
        Bounds of every node over the box of one image.
    until
        The node to be spoken about; the output where left out.
    """

    def __init__(self, net: Network, known: Intermediate, until: int | None = None) -> None:
        self.net, self.known = net, known
        self.until = net.output.index if until is None else until
        self.draft = Draft()
        self.values: dict[int, Terms] = {}
        self.crossed: list[Crossings] = []
        self._read: dict[int, tuple[Terms, Flags]] = {}
        self._stops = frozenset(n.index for n in net.nodes if isinstance(n.operator, Activation))
        needed = _ancestors(net, self.until)
        self._pixels(needed)
        for node in net.nodes[1 : self.until + 1]:
            if node.index in needed and isinstance(node.operator, Activation):
                self.values[node.index] = self._activation(node)

    @property
    def exact(self) -> bool:
        """Whether the program's minimum is the network's, not only below it."""
        return self.draft.exact

    def minimising(self, row: Tensor) -> Program:
        """Return the program whose least value is that of a row over the node spoken about.

        Parameters
        ----------
        row
            Coefficients, of the node's shape.
        """
        sparse = self._pulled(self.until, row[None])
        cost = np.zeros(self.draft.count)
        cost[sparse.index] = sparse.entry
        return self.draft.program(cost, float(sparse.constant[0]))

    def image(self, point: Floats, inner: Box) -> Tensor:
        """Return the image ``(*shape)`` in ``inner`` that a point of the program stands for."""
        found = inner.center
        if 0 in self.values:
            x = torch.from_numpy(self.values[0].at(point)).view(1, *self.net.input_shape)
            found = inner.project(x.to(inner.lower))
        for crossed in self.crossed:
            found = crossed.realised(point, inner, found)
        return found[0]

    def _pixels(self, needed: set[int]) -> None:
        """Make pixels variables, unless all that is read of them is their cells."""
        readers = [n for n in self.net.nodes[1:] if 0 in n.inputs and n.index in needed]
        found = [n.operator for n in readers if isinstance(n.operator, Steps)]
        if len(found) == len(readers) and found and _alike(found):
            return
        box = self.known.region.box
        low, up = flat(box.lower), flat(box.upper)
        moving = low < up
        fixed = Terms.constant(low.copy())
        new = self.draft.variables(low[moving], up[moving])
        self.values[0] = fixed.put(moving, Terms.variables(new))

    def _activation(self, node: Node) -> Terms:
        operator, source = node.operator, node.inputs[0]
        assert isinstance(operator, Activation)
        if isinstance(operator, Steps):
            shape = self.net.nodes[source].shape
            return steps(self.draft, operator, self._crossed(operator, source), shape)
        bounds = self._bounds(source)
        return activation(self.draft, operator, bounds, lambda flags: self._reads(source, flags))

    def _crossed(self, operator: Steps, source: int) -> Crossings:
        if source != 0:
            raise ValueError("steps read the pixels themselves")
        for known in self.crossed:
            if _alike([known.operator, operator]):
                return known
        bounds = self._bounds(source)
        found = crossings(self.draft, operator, bounds, self.values.get(source))
        self.crossed.append(found)
        return found

    def _bounds(self, index: int) -> Bounds:
        if index == 0:
            return Bounds(self.known.region.box.lower, self.known.region.box.upper)
        return self.known.at(index)

    def _reads(self, index: int, flags: Flags) -> Terms:
        """Return the elements of a node as values of one variable each."""
        if index in self.values:
            return self.values[index]
        count = math.prod(self.net.nodes[index].shape)
        known, there = self._read.get(
            index, (Terms.constant(np.zeros(count)), np.zeros(count, np.bool_))
        )
        missing = np.flatnonzero(flags & ~there)
        bounds = self._bounds(index)
        low, up = flat(bounds.lower)[missing], flat(bounds.upper)[missing]
        step = max(1, _CHUNK // self._width())
        for start in range(0, len(missing), step):
            part = slice(start, start + step)
            sparse = self._pulled(index, self._units(index, missing[part]))
            known = known.put(missing[part], self._defined(sparse, low[part], up[part]))
        self._read[index] = known, there | flags
        return known

    def _width(self) -> int:
        return max(math.prod(n.shape) for n in self.net.nodes[: self.until + 1])

    def _units(self, index: int, elements: np.ndarray) -> Tensor:
        node = self.net.nodes[index]
        rows = torch.zeros(len(elements), math.prod(node.shape), dtype=torch.float64)
        rows[torch.arange(len(elements)), torch.from_numpy(elements)] = 1.0
        return rows.view(-1, *node.shape)

    def _defined(self, sparse: Sparse, low: Floats, up: Floats) -> Terms:
        """Return rows as values: constants and single variables as they are, others defined."""
        count = np.bincount(sparse.row, minlength=len(low))
        single = count[sparse.row] == 1
        found = Terms.constant(sparse.constant)
        where = sparse.row[single]
        found = found.put(
            where, Terms(sparse.index[single], sparse.entry[single], sparse.constant[where])
        )
        many = np.flatnonzero(count > 1)
        if len(many) == 0:
            return found
        new = self.draft.variables(*padded(low[many], up[many]))
        row = np.searchsorted(many, sparse.row[~single])
        own = np.arange(len(many))
        rows = Sparse(
            np.concatenate([row, own]),
            np.concatenate([sparse.index[~single], new]),
            np.concatenate([sparse.entry[~single], np.full(len(many), -1.0)]),
            sparse.constant[many],
        )
        level = np.zeros(len(many))
        self.draft.sparse_rows(rows, level, level)
        return found.put(many, Terms.variables(new))

    def _pulled(self, index: int, rows: Tensor) -> Sparse:
        """Pull rows ``(R, *shape)`` of a node back to activations and pixels."""
        landed: list[tuple[int, Tensor]] = []

        def land(node: Node, form: Form) -> Landed:
            landed.append((node.index, form.dense(node.shape).rows[0].flatten(1)))
            return None, None

        over_input, constant = substitute(
            self.net,
            index,
            Form(rows[None]),
            relaxation=_no_lines,
            samples=None,
            stops=self._stops,
            landing=land,
        )
        if over_input is not None:
            landed.append((0, over_input.dense(self.net.input_shape).rows[0].flatten(1)))
        total = np.zeros(len(rows)) if constant is None else constant[0].numpy().copy()
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for place, part in landed:
            terms = self.values[place]
            coefficients = part.numpy()
            total = total + coefficients @ terms.shift
            moving = np.flatnonzero(terms.index != CONSTANT)
            entries = coefficients[:, moving] * terms.scale[moving]
            row, column = entries.nonzero()
            found.append((row, terms.index[moving][column], entries[row, column]))
        empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        row, variable, entry = (np.concatenate(each) for each in zip(*[empty, *found], strict=True))
        return Sparse.gathered(row, variable, entry, total)


def _no_lines(node: Node, form: Form, samples: Tensor | None) -> Lines:
    raise AssertionError(f"rows passed the activation {node.name}")


def _ancestors(net: Network, index: int) -> set[int]:
    """Return the node and all that it depends on."""
    found = {index}
    for node in reversed(net.nodes[: index + 1]):
        if node.index in found:
            found.update(node.inputs)
    return found


def _alike(operators: Sequence[Steps]) -> bool:
    """Whether steps have the same thresholds."""
    return all(torch.equal(each.thresholds, operators[0].thresholds) for each in operators)
