r"""Constraints on pairs of neurons for a margin: which pairs, over which octagons, which facets.

The relaxation of single neurons takes z anywhere in a box. Two neurons that read the same pixels
reach only part of it, which their sum and difference show; the hull over that octagon
(:mod:`taut.bounds.hull`) has facets that cut the relaxation, and those enter the ascent with
multipliers (:mod:`taut.bounds.tie`). Facets that cut off the point at which the relaxation is
least are of use, no others: the gradient of a bound with respect to a row's coefficient is that
point's coordinate, and its mean over the last steps of an ascent comes close to the point.
Source: Singh et al. 2019 (k-ReLU); Mueller et al. 2022 (PRIMA); Zhang et al. 2022 (GCP-CROWN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form
from taut.bounds.hull import Hull, Octagon, Pieces, hull
from taut.bounds.interval import Intermediate
from taut.bounds.optimised import FACET, Ascent, Families, Mixed, Mixes, ascend
from taut.bounds.rows import BRISK, chunk_size, unit_rows
from taut.bounds.tie import Facets, Tie, tied
from taut.errors import ConfigError
from taut.graph.network import Node
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Lines
from taut.operators.piecewise import PiecewiseLinear
from taut.operators.relu import ReLU

_TRIED = 2  # how many times the pairs asked for are looked at


@dataclass(frozen=True)
class Pairing:
    """How many pairs of neurons get constraints.

    Parameters
    ----------
    pairs
        Pairs of each layer, for an image.
    neurons
        Neurons of a layer that are considered, those at which a bound loses most.
    facets
        Constraints of a pair at most.
    steps
        Steps of the ascent over which the least point is taken the mean of.

    Raises
    ------
    ConfigError
        A number below 1, or fewer than two neurons.
    """

    pairs: int = 256
    neurons: int = 96
    facets: int = 2
    steps: int = 10

    def __post_init__(self) -> None:
        for name, least in (("pairs", 1), ("neurons", 2), ("facets", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}; got {getattr(self, name)}")


class _Seen(NamedTuple):
    """Neurons of an activation ``(B, m)``: what is lost there, coefficients, the least point."""

    neurons: Tensor
    loss: Tensor
    rows: Tensor
    before: Tensor
    after: Tensor


def paired(
    inter: Intermediate,
    rows: Tensor,
    pairing: Pairing,
    ascent: Ascent,
    budget: int,
    initial: Mapping[tuple[int, str], Tensor] | None = None,
) -> Intermediate:
    """Return bounds with constraints on pairs of neurons that serve one row of each image.

    Shapes: rows ``(B, 1, K)`` of the outputs; ``initial`` are mixes to begin with, one set an
    image. Each layer gets new constraints in place of those it had, where any are found.

    Cost: some steps of an ascent, a walk for the neurons considered, and the hulls of their pairs.
    """
    inter = inter.detached()
    facets = dict(inter.facets)
    for index, seen in _watched(inter, rows, pairing, ascent, initial).items():
        found = _facets(inter, inter.net.nodes[index], seen, pairing, budget)
        if bool(found.present.any()):
            facets[index] = found
    return replace(inter, facets=facets)


def strongest(inter: Intermediate, mixes: Mixes, count: int) -> tuple[Intermediate, Mixes]:
    """Return bounds with the ``count`` constraints of each layer whose multipliers are largest.

    ``mixes`` hold one set of multipliers an image and are returned without those of the others:
    most of a bound's gain comes from few constraints, and walks through these are cheaper.
    """
    facets, kept = dict(inter.facets), dict(mixes)
    for index, found in inter.facets.items():
        multipliers = mixes.get((index, FACET))
        if multipliers is not None and multipliers.shape[1] > count:
            best = multipliers.topk(count, 1).indices
            facets[index] = found.some(best)
            kept[index, FACET] = multipliers.gather(1, best)
    return replace(inter, facets=facets), kept


class _Losses:
    """Lines of a walk, with a note of where it loses: the neurons of largest loss."""

    def __init__(self, mixed: Mixed, inter: Intermediate, count: int) -> None:
        self.mixed, self.inter, self.count = mixed, inter, count
        self.found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, node: Node, form: Form, samples: Tensor | None) -> Lines:
        lines = self.mixed(node, form, samples)
        if _is_paired(node.operator) and form.window is None:
            loss = _loss(node, form.rows[:, 0], lines, self.inter.at(node.inputs[0])).flatten(1)
            most = int((loss > 0).sum(1).max())
            top = loss.topk(min(self.count, most), 1)
            if most > 1:
                rows = form.rows[:, 0].flatten(1).gather(1, top.indices)
                self.found[node.index] = (top.indices, top.values, rows)
        return lines


class _Probes:
    """Lines of a walk, with zeros added to its rows, whose gradients are the least point."""

    def __init__(self, mixed: Mixed, neurons: Mapping[int, Tensor], like: Tensor) -> None:
        self.mixed, self.neurons = mixed, neurons
        self.after = {i: like.new_zeros(n.shape).requires_grad_() for i, n in neurons.items()}
        self.before = {i: like.new_zeros(n.shape).requires_grad_() for i, n in neurons.items()}

    def __call__(self, node: Node, form: Form, samples: Tensor | None) -> Lines:
        lines, here = self.mixed(node, form, samples), self.neurons.get(node.index)
        if here is None:
            return lines
        zero = form.rows.new_zeros(len(here), 1)
        return tied(lines, Tie(here, self.after[node.index], self.before[node.index], zero))

    @staticmethod
    def point(zeros: Tensor, steps: int) -> Tensor:
        """Return the mean least point; the ascent adds up gradients of the bounds' negative."""
        return torch.zeros_like(zeros) if zeros.grad is None else -zeros.grad / steps


def _watched(
    inter: Intermediate,
    rows: Tensor,
    pairing: Pairing,
    ascent: Ascent,
    initial: Mapping[tuple[int, str], Tensor] | None,
) -> dict[int, _Seen]:
    """Return the neurons to pair by the activation, with the point at which a bound is least."""
    plain = replace(inter, facets={})
    mixed = Mixed(Families(plain, ascent.start), None, initial)
    form, output = Form(rows), plain.net.output.index
    with torch.no_grad():
        losses = _Losses(mixed, plain, pairing.neurons)
        backward.lower(plain.net, output, form, plain, lines=losses)
    neurons = {index: found[0] for index, found in losses.found.items()}
    if not neurons:
        return {}
    probes = _Probes(mixed, neurons, rows)

    def lower(part: tuple[Form, Tensor | None], _: Mixed) -> Tensor:
        return backward.lower(
            plain.net,
            output,
            part[0],
            plain,
            lines=probes,
            multipliers=mixed.multipliers if plain.cuts else None,
        ).squeeze(1)

    ascend([((form, None), mixed)], mixed.own, lower, replace(ascent, iterations=pairing.steps))
    return {
        index: _Seen(
            *found,
            probes.point(probes.before[index], pairing.steps),
            probes.point(probes.after[index], pairing.steps),
        )
        for index, found in losses.found.items()
    }


def _is_paired(operator: object) -> bool:
    return isinstance(operator, ReLU | PiecewiseLinear) and operator.axis is None


def _loss(node: Node, rows: Tensor, lines: Lines, bounds: Bounds) -> Tensor:
    """Return what the lines lose at each neuron at its worst knee, zero where it is straight."""
    operator = node.operator
    assert isinstance(operator, Activation)
    above, below = rows.clamp(min=0), rows.clamp(max=0).neg()
    worst = torch.zeros_like(rows)
    for knee in _knees(operator, bounds.lower):
        at = knee.expand_as(rows).clamp(bounds.lower, bounds.upper)
        value = operator.forward(at)
        low = (value - _line(lines.lower_slope, lines.lower_intercept, at)).clamp(min=0)
        high = (_line(lines.upper_slope, lines.upper_intercept, at) - value).clamp(min=0)
        worst = torch.maximum(worst, above * low + below * high)
    return worst.where(operator.bends(bounds), 0.0)


def _line(slope: Tensor, intercept: Tensor | None, z: Tensor) -> Tensor:
    return slope * z if intercept is None else slope * z + intercept


def _knees(operator: Activation, like: Tensor) -> list[Tensor]:
    if isinstance(operator, PiecewiseLinear):
        return list(operator.knees(like))
    return [like.new_zeros(())]


def pieces_of(operator: Activation, bounds: Bounds, neurons: Tensor) -> Pieces:
    """Return pairs of neurons ``(B, n, 2)`` as functions of pieces on their bounds, float64."""
    low, high = bounds.lower.double(), bounds.upper.double()
    knees = [knee.expand_as(low).clamp(low, high) for knee in _knees(operator, low)]
    spots = torch.stack([low, *knees, high]).sort(0).values
    values = torch.stack([operator.forward(spot) for spot in spots])
    index = neurons.flatten(1).expand(len(spots), -1, -1)

    def of(table: Tensor) -> Tensor:
        return table.flatten(2).gather(2, index).permute(1, 2, 0).reshape(-1, 2, len(spots))

    return Pieces(of(spots), of(values))


def _facets(inter: Intermediate, node: Node, seen: _Seen, pairing: Pairing, budget: int) -> Facets:
    """Return the facets of one activation that cut off its least point most."""
    source = inter.net.nodes[node.inputs[0]]
    assert isinstance(node.operator, Activation)
    batch, count = seen.neurons.shape
    first, second = torch.triu_indices(count, count, 1, device=seen.neurons.device)
    rough = _octagons(inter, source, seen.neurons, (first, second), budget)
    promise = _promise(rough, torch.minimum(seen.loss[:, first], seen.loss[:, second]))
    kept = promise.topk(min(len(first), _TRIED * pairing.pairs), 1).indices
    first, second = first[kept], second[kept]

    def both(values: Tensor) -> Tensor:
        """Return the two values of each pair, ``(B * n, 2)``."""
        found = torch.stack([values.gather(1, first), values.gather(1, second)], 2)
        return found.flatten(0, 1)

    neurons = both(seen.neurons)
    point = torch.cat([both(seen.before), both(seen.after)], 1).double()
    rows = both(seen.rows).double()

    def score(before: Tensor, after: Tensor, limit: Tensor, which: Tensor) -> Tensor:
        over = (torch.cat([before, after], 2) @ point[which].unsqueeze(2)).squeeze(2) - limit
        return over * _reach(after, rows[which])

    pieces = pieces_of(node.operator, inter.at(source.index), neurons.view(batch, -1, 2))
    found = hull(_taken(rough, kept), pieces, pairing.facets, score, inter.like.dtype)
    chosen = (found.before.double(), found.after.double(), found.limit.double())
    worth = score(*chosen, torch.arange(len(rows), device=rows.device))
    pairs = min(pairing.pairs, kept.shape[1])
    return _ranked(found, neurons, worth, _reach(chosen[1], rows), batch, pairs)


def _ranked(
    found: Hull, neurons: Tensor, worth: Tensor, reach: Tensor, batch: int, pairs: int
) -> Facets:
    """Return the facets of the pairs of each image that are worth most.

    Adam takes steps of one size: a constraint is multiplied with the size its multiplier may
    have, as a power of two, so that nothing is rounded.
    """
    count = worth.shape[1]
    best = worth.amax(1).view(batch, -1).topk(pairs, 1).indices
    best = (best.unsqueeze(2) * count + torch.arange(count, device=best.device)).flatten(1)
    size = torch.exp2(reach.clamp(min=1e-20, max=1e20).log2().round()).to(found.limit)
    values = (
        neurons.unsqueeze(1).expand(-1, count, -1),
        found.before * size.unsqueeze(2),
        found.after * size.unsqueeze(2),
        found.limit * size,
    )
    return Facets(*(v.unflatten(0, (batch, -1)).flatten(1, 2) for v in values)).some(best)


def _reach(after: Tensor, rows: Tensor) -> Tensor:
    """Return how large a multiplier may become before a coefficient of the pair turns over."""
    return (rows.abs().unsqueeze(1) / after.abs().clamp(min=1e-6)).amin(2)


def _promise(octagons: Octagon, loss: Tensor) -> Tensor:
    """Return what pairs ``(B, n)`` lose, times the share by which their octagon is narrower."""
    closed = Octagon(octagons.lower.flatten(0, 1), octagons.upper.flatten(0, 1)).closed()
    width = (closed.upper - closed.lower).view_as(octagons.lower)
    box = (octagons.upper - octagons.lower)[..., :2].sum(2)
    return loss * (1 - width[..., 2:].amin(2) / box.clamp(min=torch.finfo(box.dtype).tiny))


def _taken(octagons: Octagon, index: Tensor) -> Octagon:
    """Return some of the octagons ``(B, n, 4)`` of each image, closed, as one list."""
    each = index.unsqueeze(2).expand(-1, -1, 4)
    ends = (end.gather(1, each).flatten(0, 1) for end in (octagons.lower, octagons.upper))
    return Octagon(*ends).closed()


def _octagons(
    inter: Intermediate,
    source: Node,
    neurons: Tensor,
    pairs: tuple[Tensor, Tensor],
    budget: int,
) -> Octagon:
    """Bound sums and differences of pairs of the neurons ``(B, m)``, ``(B, n, 4)``.

    The linear bounds of both are added up over the region, which takes one walk for each neuron,
    not one for each pair.
    """
    slopes, shifts = _linear(inter, source, neurons, budget)
    shape = inter.net.nodes[0].shape

    def least(first: Tensor, second: Tensor, i: int, j: int) -> Tensor:
        rows = slopes[:, first, i] + slopes[:, second, j]
        found = inter.region.minimum(rows.unflatten(2, shape))
        return found + shifts[:, first, i] + shifts[:, second, j]

    known = inter.at(source.index)
    low, high = (end.flatten(1).gather(1, neurons) for end in (known.lower, known.upper))
    lower, upper = [], []
    held = 4 * slopes[:, :1, 0].numel() * slopes.element_size()  # by a row of each image
    step = max(1, min(budget, BRISK) // held)
    for first, second in zip(pairs[0].split(step), pairs[1].split(step), strict=True):
        sums, differences = (least(first, second, 0, j) for j in range(2))
        lower.append(torch.stack([low[:, first], low[:, second], sums, differences], 2))
        sums, differences = (-least(first, second, 1, j) for j in (1, 0))
        upper.append(torch.stack([high[:, first], high[:, second], sums, differences], 2))
    return Octagon(torch.cat(lower, 1).double(), torch.cat(upper, 1).double())


def _linear(
    inter: Intermediate, source: Node, neurons: Tensor, budget: int
) -> tuple[Tensor, Tensor]:
    """Return linear lower bounds over the input of neurons ``(B, m)`` and of their negatives.

    Coefficients ``(B, m, 2, inputs)`` and constants ``(B, m, 2)``.
    """
    batch, count = neurons.shape
    image = torch.arange(batch, device=neurons.device).repeat_interleave(count)
    pairs = torch.stack([image, neurons.flatten()], 1)
    relaxation = backward.family(inter, "adaptive")
    step = chunk_size(inter, source.index, pairs, relaxation, budget)
    size = math.prod(inter.net.nodes[0].shape)
    rows, shifts = [], []
    for part in pairs.split(step):
        form, total = backward.substitute(
            inter.net,
            source.index,
            unit_rows(source, part[:, 1], inter.like),
            relaxation=relaxation,
            samples=part[:, 0],
        )
        blank = inter.like.new_zeros(len(part), 2, size)
        dense = None if form is None else form.dense(inter.net.nodes[0].shape).rows.flatten(2)
        rows.append(blank if dense is None else dense)
        shifts.append(blank[..., 0] if total is None else total)
    return torch.cat(rows).view(batch, count, 2, size), torch.cat(shifts).view(batch, count, 2)
