"""Interval bound propagation (IBP): one pass of midpoints and radii.

Source: Gowal et al. 2018; Mirman et al. 2018. Cost: two forward passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.budget import allowance
from taut.bounds.rows import bound_pairs
from taut.bounds.tie import Facets
from taut.graph.network import Network, Node
from taut.operators.affine import Conv2d, Linear
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Interval
from taut.operators.shape import Identity
from taut.property import margin_rows, pad_true_class
from taut.region import Region


@dataclass(frozen=True, eq=False)
class Intermediate:
    """Bounds of every node of a network over one region.

    ``intervals[i]`` holds node i in midpoint form, None where it was not kept.
    ``refined`` replaces them where a dearer method has bounded an activation's input
    better. ``cuts`` are the constraints that hold besides, see :mod:`taut.bounds.cuts`, and
    ``facets``, by the index of the activation, what is known of pairs of its neurons, see
    :mod:`taut.bounds.pairs`; optimised lines use both.
    """

    net: Network
    region: Region
    intervals: tuple[Interval | None, ...]
    refined: dict[int, Bounds]
    cuts: Mapping[int, Bounds] = field(default_factory=dict)
    facets: Mapping[int, Facets] = field(default_factory=dict)

    def at(self, index: int) -> Bounds:
        """Return the best known bounds of a node, shape ``(B, *node shape)``."""
        found = self.refined.get(index)
        return self.interval(index).bounds if found is None else found

    def interval(self, index: int) -> Interval:
        """Return a node's interval in midpoint form, as interval propagation found it."""
        found = self.intervals[index]
        if found is None:
            raise ValueError(f"the interval of node {index} was not kept")
        return found

    @property
    def like(self) -> Tensor:
        """A tensor of the batch's type and device, ``(B, ...)``."""
        return next(found.center for found in self.intervals if found is not None)

    def detached(self) -> Intermediate:
        """Return the same with the network's weights and all bounds as constants."""
        intervals = [
            None if i is None else Interval(i.center.detach(), i.radius.detach())
            for i in self.intervals
        ]
        refined = {
            index: Bounds(found.lower.detach(), found.upper.detach())
            for index, found in self.refined.items()
        }
        region = self.region.each(lambda t: t.detach())
        return Intermediate(
            self.net.detached(), region, tuple(intervals), refined, self.cuts, self.facets
        )

    def activations(self) -> list[Bounds]:
        """Return the bounds of every activation's input, in topological order."""
        return [
            self.at(node.inputs[0])
            for node in self.net.nodes
            if isinstance(node.operator, Activation)
        ]


def propagate(
    net: Network, region: Region, *, keep_all: bool = True, budget: int | None = None
) -> Intermediate:
    r"""Bound every node over ``region``.

    .. math:: c' = W c + b, \quad r' = |W| r; \qquad l' = \sigma(l), \quad u' = \sigma(u)

    Of a region that is no box, the inputs of the first activations are bounded exactly, by
    their rows (a dual norm, for a ball); from there on intervals go on as ever.

    Gradients flow to the parameters of ``net`` (and to a box, where it asks for them).
    Without ``keep_all`` only those intervals are kept that :func:`margins` needs, so
    that the memory is that of the widest layer; without gradients activations then
    work in place on what a layer has just computed for them alone.
    """
    needed = set(range(len(net.nodes))) if keep_all else _frontier(net)
    first = frozenset() if region.exact_box else net.affine_of_input() & net.bent().keys()
    spare = set() if keep_all or torch.is_grad_enabled() else _written_for_one(net) - needed
    last = {source: node.index for node in net.nodes for source in node.inputs}
    box = region.box
    intervals: list[Interval | None] = [Interval.between(box.lower, box.upper)]
    refined: dict[int, Bounds] = {}
    if any(jumps(node) for node in net.nodes):  # midpoints would round the ends
        refined[0] = Bounds(box.lower, box.upper)
    for node in net.nodes[1:]:
        assert node.operator is not None
        inputs = [found for i in node.inputs if (found := intervals[i]) is not None]
        if node.index > max(needed):
            intervals.append(None)
        elif isinstance(node.operator, Activation) and jumps(node):
            ends = node.operator.image(refined[0])
            intervals.append(Interval.between(ends.lower, ends.upper))
        elif isinstance(node.operator, Activation) and node.inputs[0] in spare:
            intervals.append(node.operator.interval_in_place(*inputs))
        else:
            intervals.append(node.operator.interval(*inputs))
        if node.index in first:
            known = Intermediate(net, region, tuple(intervals), {})
            exact = _exact(known, node, budget)
            refined[node.index] = exact
            intervals[node.index] = Interval.between(exact.lower, exact.upper)
        for source in node.inputs:
            if last[source] == node.index and source not in needed:
                intervals[source] = None
    return Intermediate(net, region, tuple(intervals), refined)


def jumps(node: Node) -> bool:
    """Whether a node reads the input and jumps; see :class:`~taut.operators.cells.Steps`."""
    return isinstance(node.operator, Activation) and node.operator.jumps and node.inputs == (0,)


def _exact(known: Intermediate, node: Node, budget: int | None) -> Bounds:
    """Bound all elements of a node that is affine in the input by their rows."""
    box = known.interval(node.index).bounds
    pairs = torch.ones_like(box.lower, dtype=torch.bool).flatten(1).nonzero()
    ends = bound_pairs(
        known,
        node.index,
        pairs,
        backward.family(known, None),
        allowance(budget, box.lower.device),
    )
    shape = box.lower.shape
    return Bounds(ends.lower.view(shape), ends.upper.view(shape)).intersect(box)


def _written_for_one(net: Network) -> set[int]:
    """Return the nodes whose tensors are their own, made by a layer, and have one reader."""
    readers = Counter(source for node in net.nodes for source in node.inputs)
    found: set[int] = set()
    for node in net.nodes[1:]:
        fresh = isinstance(node.operator, Conv2d | Linear)
        handed_on = isinstance(node.operator, Identity) and node.inputs[0] in found
        if readers[node.index] == 1 and (fresh or handed_on):
            found.add(node.index)
    return found


def _frontier(net: Network) -> set[int]:
    """Return the nodes at which rows pulled back from the logits meet an activation or x."""
    found, pending = set(), {net.output.index}
    for node in reversed(net.nodes):
        if node.index not in pending:
            continue
        if node.is_affine:
            pending.update(node.inputs)
        else:
            found.add(node.index)
    return found


def margins(net: Network, inter: Intermediate, y: Tensor) -> Tensor:
    r"""Return elided IBP margins ``(B, K)``: lower bounds of :math:`z_y - z_j`.

    The specification is merged with the affine layers after the last activations,
    whose output boxes are then concretised: never looser than
    :math:`\underline z_y - \overline z_j`. The true column is +inf.
    """
    rows = margin_rows(y, net.classes, inter.like)
    lower = backward.lower(net, net.output.index, rows, inter, lines=None)
    return pad_true_class(lower, y)
