r"""Zonotopes carried forward: DeepZ, and the hybrid zonotope.

A node is enclosed in :math:`\{c + \sum_i e_i g_i + e' r : e_i, e'_k \in [-1, 1]\}`: a center,
generators whose error terms :math:`e_i` all nodes share, and radii r of a box of errors that
are each element's own. Shared terms cancel where branches join.
Sources: Singh et al. 2018 (DeepZ); Mirman et al. 2018 (both, for training).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from taut.bounds.budget import BudgetError, allowance
from taut.bounds.entry import behind_cells
from taut.bounds.forward import last_readers
from taut.bounds.interval import Intermediate, propagate
from taut.bounds.methods import Info, margins_by, outputs_by
from taut.bounds.relax import dot
from taut.bounds.tail import merged
from taut.errors import ConfigError
from taut.graph.network import Network, Node
from taut.operators.base import Activation, Affine
from taut.operators.forms import Bounds, Interval, Lines
from taut.region import Box, Region
from taut.region.base import flat_rows

Result = TypeVar("Result")

_OVERHEAD = 1.9
"""Bytes a walk takes over those of the elements alive: magnitudes, copies of convolutions."""


@dataclass(frozen=True, eq=False)
class Element:
    """An enclosure of one node.

    ``center`` has shape ``(B, *shape)``. ``generators`` holds ``(B, g, *shape)`` for each node
    that brought error terms in (0: the input's pixels); the i-th generator of a node's block
    belongs to the same term everywhere. ``box`` are radii ``(B, *shape)``; None is zero.
    """

    center: Tensor
    generators: Mapping[int, Tensor]
    box: Tensor | None = None

    @property
    def radius(self) -> Tensor:
        r"""Half the width of every element's range, :math:`\sum_i |g_i| + r`."""
        total = torch.zeros_like(self.center) if self.box is None else self.box
        for block in self.generators.values():
            total = total + block.abs().sum(1)
        return total

    @property
    def size(self) -> int:
        """Number of coefficients in the generators."""
        return sum(block.numel() for block in self.generators.values())


class _Full(Exception):  # noqa: N818 - not an error yet: fewer images may fit
    """A walk that would exceed its budget, and by which factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(factor)
        self.factor = factor


class _Room:
    """Keeps count of the coefficients a walk holds, all it ever made where gradients need them."""

    def __init__(self, budget: int, like: Tensor, kept: bool) -> None:
        self.most = budget / (_OVERHEAD * like.element_size())
        self.kept, self.held = kept, 0

    def enter(self, count: int) -> None:
        self.held += count
        if self.held > self.most:
            raise _Full(self.held / self.most)

    def leave(self, element: Element) -> None:
        if not self.kept:
            self.held -= element.size


@dataclass(frozen=True)
class Zonotope:
    r"""Bounds by zonotopes (DeepZ) or hybrid zonotopes.

    An affine node maps the center, and the generators without its bias. An activation, whose
    parallel lines on :math:`[l, u]` are :math:`s z + t_L` and :math:`s z + t_U`, gives

    .. math:: c' = s c + (t_L + t_U) / 2, \qquad g' = s g

    and the new error :math:`(t_U - t_L) / 2`: a fresh generator for every neuron where it is
    positive, or (``hybrid``) a share of the box, :math:`r' = |s| r + (t_U - t_L) / 2`, so that
    the number of generators stays that of the input's pixels. Margins merge with the last
    layers and are bounded at once.

    The input is the smallest enclosing box of a region. Over an l_1 or l_2 ball the bounds hold
    but are loose: the ball's shape reaches only the intervals of ``intersect``.

    Without ``intersect`` every bound equals that of substitution to the input with same-slope
    lines at every layer (Fast-Lin), at the cost of forward passes. It is ordered with intervals
    neither way. Gradients flow to the network's parameters.

    Parameters
    ----------
    hybrid
        Whether new errors go into a box instead of generators.
    intersect
        Whether the ranges that activations see are cut with interval propagation's. Those of
        functions that are not defined everywhere (log, sqrt) always are.
    budget
        Bytes for the generators; a quarter of what is free by default. Images that do not fit
        together are taken apart, which changes no bound.

    Raises
    ------
    BudgetError
        The generators of a single image do not fit, or with gradients those of the batch.

    References
    ----------
    Singh et al., *Fast and effective robustness certification* (2018), Theorem 3.1;
    Mirman et al., *Differentiable abstract interpretation* (2018), section 4.

    """

    hybrid: bool = False
    intersect: bool = True
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"budget must be a positive number of bytes; got {self.budget}")

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""
        if self.hybrid:
            return Info(
                "hybrid-zonotope",
                "zonotopes whose new errors go into a box",
                "c' = s c + (tL + tU)/2, G' = s G, r' = |s| r + (tU - tL)/2",
                "1 forward pass for each input pixel",
                "O(pixels x widest layer); images in pieces to a byte budget",
                "Mirman et al. 2018, ICML, PMLR 80",
            )
        return Info(
            "deepz",
            "zonotopes (DeepZ)",
            "c' = s c + (tL + tU)/2, G' = [s G; diag((tU - tL)/2)]",
            "1 forward pass for each input pixel and each unstable neuron before",
            "O((pixels + unstable neurons) x widest layer); images in pieces to a byte budget",
            "Singh et al. 2018, NeurIPS 31; Mirman et al. 2018, ICML, PMLR 80",
        )

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""
        return outputs_by(self._lower, net, region)

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return margin lower bounds, ``(B, K)``, +inf in column y."""
        return margins_by(self._lower, net, region, y)

    def intermediate(self, net: Network, region: Region) -> Intermediate:
        """Return the bounds of every node, those of activations' inputs by zonotopes.

        Of a network that reads its pixels through cells they are those of :func:`behind_cells`.
        """

        def work(walk: _Walk, box: Box, part: slice) -> list[Bounds]:
            found = {node.index: bounds for node, _, bounds in walk.over(box, max(indices))}
            return [bounds for index in indices if (bounds := found[index]) is not None]

        net, region = behind_cells(net, region)
        inter = propagate(net, region, budget=self.budget)
        indices = list(net.bent())
        if not indices:
            return inter
        parts = zip(*self._in_parts(inter, work), strict=True)
        found = {
            index: Bounds(torch.cat([b.lower for b in each]), torch.cat([b.upper for b in each]))
            for index, each in zip(indices, parts, strict=True)
        }
        return replace(inter, refined={**inter.refined, **found})

    def _lower(self, net: Network, region: Region, rows: Tensor) -> Tensor:
        """Bound rows ``(B, R, K)`` over the logits from below, ``(B, R)``."""
        net, region = behind_cells(net, region)
        inter = propagate(net, region, budget=self.budget)
        return torch.cat(
            self._in_parts(inter, lambda walk, box, part: _least(walk, box, rows[part]))
        )

    def _in_parts(
        self, inter: Intermediate, work: Callable[[_Walk, Box, slice], Result]
    ) -> list[Result]:
        """Call ``work`` for parts of the batch that fit the budget; return what it returns."""
        net, box = inter.net, inter.region.box
        known = {index: inter.at(index) for index in net.bent()}
        kept = any(bounds.lower.requires_grad for bounds in known.values())
        budget = allowance(self.budget, box.device)
        found: list[Result] = []
        start, size = 0, len(box)
        while start < len(box):
            part = slice(start, start + size)
            room = _Room(budget, box.lower, kept)
            walk = _Walk(net, {i: b[part] for i, b in known.items()}, self, room)
            try:
                found.append(work(walk, box[part], part))
                start += size
                continue
            except _Full as full:
                factor = full.factor
            # Outside the handler the failed attempt's tensors are freed.
            if size == 1 or kept:
                raise BudgetError(self._complaint(budget, factor, size, kept))
            size = max(1, min(size // 2, int(size / factor)))
        return found

    def _complaint(self, budget: int, factor: float, size: int, kept: bool) -> str:
        whose = f"{size} images with gradients" if kept else "one image"
        ways = ["a larger budget"]
        ways += [] if self.hybrid else ["hybrid=True (hybrid-zonotope), which needs less"]
        ways += ["a smaller batch"] if kept and size > 1 else []
        return (
            f"the zonotopes of {whose} need at least {budget * factor / 2**20:.0f} MB, above the "
            f"budget of {budget / 2**20:.0f} MB; take {' or '.join(ways)}"
        )


@dataclass(frozen=True, eq=False)
class _Walk:
    """One way forward through a network with some images."""

    net: Network
    known: Mapping[int, Bounds]
    """Intervals of the activations' inputs."""
    how: Zonotope
    room: _Room

    def over(self, box: Box, end: int) -> Iterator[tuple[Node, Element, Bounds | None]]:
        """Yield every node up to ``end`` with its enclosure, and the bounds of activations' inputs.

        An enclosure is let go behind its last reader.
        """
        last, ranges = last_readers(self.net), dict[int, Bounds]()
        alive: dict[int, Element] = {}
        for node in self.net.nodes[: end + 1]:
            element = self._next(node, [alive[i] for i in node.inputs], box, ranges)
            if node.index in self.known:
                ranges[node.index] = self._range(node.index, element)
            alive[node.index] = element
            for source in set(node.inputs):
                if last[source] == node.index:
                    self.room.leave(alive.pop(source))
            yield node, element, ranges.get(node.index)

    def _next(
        self, node: Node, inputs: list[Element], box: Box, ranges: Mapping[int, Bounds]
    ) -> Element:
        if isinstance(node.operator, Activation):
            (element,) = inputs
            return self._bend(node, node.operator, element, ranges[node.inputs[0]])
        if isinstance(node.operator, Affine):
            return self._affine(node, node.operator, inputs)
        pixels = Interval.between(box.lower, box.upper)
        block = self._block(pixels.radius)
        return Element(pixels.center, {} if block is None else {0: block})

    def _range(self, index: int, element: Element) -> Bounds:
        """Return the bounds that the lines of a node's readers hold on."""
        if index == 0:  # the box itself: a midpoint would round its ends, and cells have edges
            return self.known[index]
        radius = element.radius
        found = Bounds(element.center - radius, element.center + radius)
        limited = any(math.isfinite(a.domain[0]) for a in self.net.bent()[index])
        if self.how.intersect or limited:
            found = found.intersect(self.known[index])
            # By rounding the ends of two enclosures of a point may have changed places.
            ends = found.lower, found.upper
            found = Bounds(torch.minimum(*ends), torch.maximum(*ends))
        return found

    def _affine(self, node: Node, operator: Affine, inputs: list[Element]) -> Element:
        batch = len(inputs[0].center)
        counts = {i: g.shape[1] for element in inputs for i, g in element.generators.items()}
        self.room.enter(batch * sum(counts.values()) * torch.Size(node.shape).numel())

        def block(source: int, element: Element) -> Tensor:
            if source in element.generators:
                return element.generators[source].flatten(0, 1)
            zero = element.center.new_zeros(())
            return zero.expand(batch * counts[source], *element.center.shape[1:])

        generators = {
            source: operator.linear(*(block(source, e) for e in inputs)).unflatten(0, (batch, g))
            for source, g in counts.items()
        }
        box = None
        if any(element.box is not None for element in inputs):
            boxes = (torch.zeros_like(e.center) if e.box is None else e.box for e in inputs)
            box = operator.magnitude(*boxes)
        return Element(operator.forward(*(e.center for e in inputs)), generators, box)

    def _bend(self, node: Node, operator: Activation, element: Element, bounds: Bounds) -> Element:
        lines, axis = operator.lines(bounds, "same-slope"), operator.axis
        slope = lines.lower_slope
        self.room.enter(element.size // slope[0].numel() * torch.Size(node.shape).numel())
        center = _scaled(element.center, slope, axis)
        generators = {
            source: _scaled(block, slope.unsqueeze(1), None if axis is None else axis + 1)
            for source, block in element.generators.items()
        }
        box = None if element.box is None else _scaled(element.box, slope.abs(), axis)
        middle, error = _intercepts(lines)
        if middle is None or error is None:
            return Element(center, generators, box)
        center = center + middle
        if self.how.hybrid:
            return Element(center, generators, error if box is None else box + error)
        fresh = self._block(error)
        return Element(
            center, generators if fresh is None else {**generators, node.index: fresh}, box
        )

    def _block(self, errors: Tensor) -> Tensor | None:
        """Return a generator for every positive error ``(B, *shape)``, None without any.

        Those of each image are packed; the block is as long as the longest of the batch.
        """
        there = ~(errors.detach() <= 0)  # NaN must not vanish
        flat = there.flatten(1)
        count = int(flat.sum(1).amax())
        if count == 0:
            return None
        self.room.enter(count * errors.numel())
        where = there.nonzero(as_tuple=True)
        slot = (flat.cumsum(1) - 1).view_as(there)[where]
        shape = (len(errors) * count, *errors.shape[1:])
        images = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        packed = torch.empty(
            shape, dtype=errors.dtype, device=errors.device, memory_format=images
        ).zero_()
        packed.index_put_((where[0] * count + slot, *where[1:]), errors[where])
        block: Tensor = packed.unflatten(0, (len(errors), count))
        return block


def _scaled(tensor: Tensor, slope: Tensor, axis: int | None) -> Tensor:
    """Multiply by slopes; sum over the axis that the activation takes together."""
    found = tensor * slope
    return found if axis is None else found.sum(axis + 1)


def _intercepts(lines: Lines) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return midpoint and half distance of two parallel lines' intercepts."""
    low, up = lines.lower_intercept, lines.upper_intercept
    if low is None and up is None:
        return None, None
    if low is None or up is None:
        one = up if up is not None else low
        assert one is not None
        return one / 2, (one if up is not None else -one).clamp(min=0) / 2
    return (low + up) / 2, (up - low).clamp(min=0) / 2


def _least(walk: _Walk, box: Box, rows: Tensor) -> Tensor:
    """Bound rows over the logits from below; each error term's shares are added up first."""
    landings, total = merged(walk.net, rows)
    terms: dict[int, Tensor] = {}
    for node, element, _ in walk.over(box, max(landings)):
        if node.index not in landings:
            continue
        form = landings[node.index]
        found = dot(form, element.center)
        if element.box is not None:
            found = found - dot(form.abs(), element.box)
        total = found if total is None else total + found
        for source, block in element.generators.items():
            share = flat_rows(form) @ flat_rows(block).transpose(1, 2)
            terms[source] = terms[source] + share if source in terms else share
    assert total is not None
    for share in terms.values():
        total = total - share.abs().sum(2)
    return total
