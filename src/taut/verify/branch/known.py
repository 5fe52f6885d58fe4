"""Bounds of every node: of whole regions once, and of their parts from those."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taut.bounds import backward, interval
from taut.bounds.cuts import cut, ordered
from taut.bounds.interval import Intermediate
from taut.bounds.optimised import Ascent, optimised_pairs
from taut.bounds.refine import Bounder, bounded, improve, noted, renewed
from taut.bounds.rows import bound_pairs
from taut.bounds.tie import Facets
from taut.graph import Network
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Interval
from taut.region import Box
from taut.verify.branch.parts import Parts

_PIECE = 1024  # neurons bounded from one look at the clock to the next


def crown(kind: str, budget: int) -> Bounder:
    """Bound neurons by substitution with one family of lines."""

    def bound(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
        return bound_pairs(known, source, pairs, backward.family(known, kind), budget)

    return bound


def climbed(ascent: Ascent, budget: int) -> Bounder:
    """Bound neurons by substitution with lines optimised for each."""

    def bound(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
        return optimised_pairs(known, source, pairs, ascent, budget)

    return bound


def until(deadline: float, bounder: Bounder) -> Bounder:
    """Bound neurons for as long as there is time; those left keep the bounds they have."""

    def bound(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
        found = []
        for piece in pairs.split(_PIECE):
            if time.perf_counter() >= deadline:
                infinite = known.like.new_full((len(piece),), torch.inf)
                found.append(Bounds(-infinite, infinite))
            else:
                found.append(bounder(known, source, piece))
        return Bounds(torch.cat([f.lower for f in found]), torch.cat([f.upper for f in found]))

    return bound


def rooted(net: Network, box: Box, bounders: list[Bounder]) -> Intermediate:
    """Bound every node over whole boxes, by each of the bounders in turn."""
    inter = interval.propagate(net, box)
    for bounder in bounders:
        inter = improve(inter, [bounder])
    return inter


def part_of(inter: Intermediate, index: Tensor) -> Intermediate:
    """Return the bounds of some of the images, in any order and number."""
    intervals = [
        None if found is None else Interval(found.center[index], found.radius[index])
        for found in inter.intervals
    ]
    refined = {node: found[index] for node, found in inter.refined.items()}
    return replace(
        inter,
        region=inter.region[index],
        intervals=tuple(intervals),
        refined=refined,
        facets={node: found[index] for node, found in inter.facets.items()},
    )


def joined(parts: list[Intermediate]) -> Intermediate:
    """Return the bounds of several lots of images as one."""
    if len(parts) == 1:
        return parts[0]
    intervals = [
        Interval(
            torch.cat([part.interval(index).center for part in parts]),
            torch.cat([part.interval(index).radius for part in parts]),
        )
        for index in range(len(parts[0].intervals))
    ]

    def both(ends: Callable[[Bounds], Tensor], index: int) -> Tensor:
        return torch.cat([ends(part.at(index)) for part in parts])

    refined = {
        index: Bounds(both(lambda b: b.lower, index), both(lambda b: b.upper, index))
        for index in sorted(set().union(*(part.refined for part in parts)))
    }
    box = Box(
        torch.cat([part.region.box.lower for part in parts]),
        torch.cat([part.region.box.upper for part in parts]),
    )
    facets = {
        index: Facets.joined(
            [part.facets.get(index, Facets.none(len(part.region.box), part.like)) for part in parts]
        )
        for index in sorted(set().union(*(part.facets for part in parts)))
    }
    return replace(parts[0], region=box, intervals=tuple(intervals), refined=refined, facets=facets)


@dataclass(frozen=True, eq=False)
class Table:
    """Which neurons' bounds are kept with the parts: those that bend on the whole region.

    ``nodes`` are the nodes they are of, with their sizes; ``neurons (roots, U)`` their positions
    in these nodes' neurons one after the other.
    """

    nodes: tuple[tuple[int, int], ...]
    neurons: Tensor

    @classmethod
    def of(cls, roots: Intermediate) -> Table:
        """Return the table for the regions of ``roots``; rows of fewer are filled up."""
        bent = roots.net.bent()
        bends = {
            index: torch.stack([r.bends(roots.at(index)).flatten(1) for r in readers]).any(0)
            for index, readers in sorted(bent.items())
            if index != 0
        }
        every = torch.cat(
            [roots.like.new_zeros(len(roots.region.box), 0).bool(), *bends.values()], 1
        )
        most = int(every.sum(1).amax()) if len(every) else 0
        order = every.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        nodes = tuple((index, found.shape[1]) for index, found in bends.items())
        return cls(nodes, order[:, :most])

    def packed(self, inter: Intermediate, place: Tensor) -> Tensor:
        """Return the bounds of parts of regions at ``place (N,)`` as rows ``(N, 2 U)``."""
        known = [inter.at(index) for index, _ in self.nodes]
        rows = self.neurons[place]
        ends = [[k.lower.flatten(1) for k in known], [k.upper.flatten(1) for k in known]]
        return torch.cat([torch.cat(end, 1).gather(1, rows) for end in ends], 1)

    def unpacked(self, kept: Tensor, inter: Intermediate, place: Tensor) -> Intermediate:
        """Return ``inter``, the bounds of whole regions, with those kept of parts."""
        rows = self.neurons[place]
        low, high = kept.chunk(2, 1)
        known = [inter.at(index) for index, _ in self.nodes]
        sizes = [size for _, size in self.nodes]
        lower = torch.cat([k.lower.flatten(1) for k in known], 1).scatter(1, rows, low)
        upper = torch.cat([k.upper.flatten(1) for k in known], 1).scatter(1, rows, high)
        ends = zip(lower.split(sizes, 1), upper.split(sizes, 1), strict=True)
        for (index, _), before, (one, other) in zip(self.nodes, known, ends, strict=True):
            found = Bounds(one.view_as(before.lower), other.view_as(before.upper))
            inter = bounded(inter, index, found)
        return inter


def restricted(
    roots: Intermediate,
    place: Tensor,
    whole: Box,
    parts: Parts,
    table: Table | None = None,
    *,
    onward: bool = True,
) -> Intermediate:
    """Return bounds of every node over each part, from those of its image's whole region.

    ``place`` is where an image is among the roots, ``whole`` holds the boxes of all images.
    What is ``kept`` of parts as ``table`` says holds there instead. Where a part's box is smaller
    intervals are propagated anew and intersected; splits of
    neurons are cuts (:mod:`taut.bounds.cuts`), propagated too unless ``onward`` is false.
    """
    inter, net = part_of(roots, place[parts.image]), roots.net
    if table is not None and parts.kept.shape[1]:
        inter = table.unpacked(parts.kept, inter, place[parts.image])
    if bool((parts.splits.node == 0).any()):
        inter = _inside(inter, parts.box(whole))
    ends = {
        node.index: found
        for node in net.nodes[1:]
        if (found := parts.ends(node.index, node.shape)) is not None
    }
    if onward and ends:
        return cut(inter, ends)
    best = {index: ordered(inter.at(index).intersect(found)) for index, found in ends.items()}
    return replace(inter, refined={**inter.refined, **best}, cuts=ends)


def _inside(inter: Intermediate, box: Box) -> Intermediate:
    """Return the bounds over smaller boxes."""
    ends = Bounds(box.lower, box.upper)
    inter = replace(noted(inter, 0, ends), region=box, refined={**inter.refined, 0: ends})
    for node in inter.net.nodes[1:]:
        if isinstance(node.operator, Activation) and interval.jumps(node):
            inter = noted(inter, node.index, node.operator.image(ends))  # to the last bit
        else:
            inter = renewed(inter, node)
    return inter
