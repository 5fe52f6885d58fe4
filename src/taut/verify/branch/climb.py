"""Bounds of parts: substitution with optimised lines and multipliers, and where to split next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form
from taut.bounds.interval import Intermediate
from taut.bounds.optimised import LOWER_CUT, Ascent, Families, Mixed, Mixes, ascend
from taut.graph.network import Network, Node
from taut.operators.cells import Steps
from taut.operators.forms import Bounds, Lines
from taut.region import Box
from taut.verify.branch import choose
from taut.verify.branch.choose import Scored
from taut.verify.branch.clip import Half
from taut.verify.branch.parts import Parts, Splits

BETA = (-1, LOWER_CUT)
"""The key of the multipliers of all splits."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Margins to bound: group g is the margin of ``label`` over ``target`` on one part."""

    part: Tensor
    label: Tensor
    target: Tensor

    def form(self, classes: int, like: Tensor) -> Form:
        """Return the rows ``e_label - e_target``, ``(G, 1, K)``."""
        rows = like.new_zeros(len(self.part), classes)
        rows.scatter_(1, self.label[:, None], 1.0).scatter_(1, self.target[:, None], -1.0)
        return Form(rows.unsqueeze(1))


@dataclass(frozen=True, eq=False)
class Layout:
    """How the mixes of a walk lie in one row of numbers: their keys and shapes, in order."""

    keys: tuple[tuple[tuple[int, str], torch.Size], ...]

    @classmethod
    def of(cls, mixes: Mapping[tuple[int, str], Tensor]) -> Layout:
        """Return the layout of some mixes ``(G, *shape)``."""
        return cls(tuple((key, mixes[key].shape[1:]) for key in sorted(mixes)))

    def unpacked(self, rows: Tensor) -> Mixes:
        """Return mixes from rows ``(G, M)``."""
        pieces = rows.split([shape.numel() for _, shape in self.keys], 1)
        return {
            key: piece.view(-1, *shape)
            for (key, shape), piece in zip(self.keys, pieces, strict=True)
        }

    def packed(self, mixes: Mapping[tuple[int, str], Tensor], before: Tensor) -> Tensor:
        """Return rows ``(G, M)`` of the type of ``before``, of which what the mixes lack stays."""
        if not self.keys:
            return before
        old = self.unpacked(before)
        return torch.cat(
            [mixes.get(key, old[key]).flatten(1).to(before) for key, _ in self.keys], 1
        )


@dataclass(frozen=True, eq=False)
class Climbed:
    """What bounding found out.

    Attributes
    ----------
    parts
        The parts with better bounds, multipliers and choices.
    found
        The bound of every group by itself, ``(G,)``; -inf where it is not finite.
    corner
        Where the worst margin's last linear bound is least, ``(N, *shape)``.
    mixes
        The mixes of the worst margin of each part, ``(N, *shape)``.
    half
        Where the last linear bound of the worst margin is at most the level asked for, the
        threshold by default.
    scores
        How much that bound loses at every neuron of the parts, empty where no split is looked for.
    """

    parts: Parts
    found: Tensor
    corner: Tensor
    mixes: Mixes
    half: Half
    scores: tuple[Scored, ...] = ()


class _Witness:
    """The lines of a walk, and where the bound loses when no gradient is asked for."""

    def __init__(self, mixed: Mixed, inter: Intermediate, scoring: bool) -> None:
        self.mixed, self.inter, self.scoring = mixed, inter, scoring
        self.met: list[tuple[Node, Tensor, Lines, Bounds]] = []
        self.cells: list[Scored] = []

    def __call__(self, node: Node, form: Form, samples: Tensor | None) -> Lines:
        lines = self.mixed(node, form, samples)
        if not torch.is_grad_enabled() and self.scoring:
            known = self.inter.at(node.inputs[0])
            bounds = known if samples is None else known[samples]
            if isinstance(node.operator, Steps) and node.inputs == (0,):
                self.cells.append(choose.of_cells(node.operator, form.rows[:, 0], bounds))
            else:
                self.met.append((node, form.rows[:, 0].clone(), lines, bounds))
        return lines

    def neurons(self, worst: Tensor) -> list[Scored]:
        """Return the scores of some groups' neurons."""
        return [
            scored
            for node, rows, lines, bounds in self.met
            for scored in choose.of_neurons(node, rows[worst], lines[worst], bounds[worst])
        ]


class _Multipliers:
    """What the splits of neurons add to a walk, by one multiplier for each split and group.

    The same as :meth:`taut.bounds.optimised.Mixed.multipliers` with all others at zero.
    """

    def __init__(self, splits: Splits, part: Tensor, like: Tensor) -> None:
        below = splits.lower.isfinite()
        self.node, self.neuron = splits.node[part], splits.neuron[part]
        self.sign = torch.where(below, -1.0, 1.0).to(like)[part]
        self.at = torch.where(below, splits.lower, splits.upper)[part]
        self.beta = splits.beta[part].clone().requires_grad_()

    def __call__(
        self, node: Node, form: Form, samples: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        here = self.node == node.index
        if node.operator is None or not bool(here.any()):
            return None
        share = (self.sign * self.beta).where(here, 0.0)
        blank = torch.zeros_like(form.rows[:, 0]).flatten(1)
        rows = blank.scatter_add(1, self.neuron.where(here, 0), share)
        constant = -(share * self.at.where(here, 0.0)).sum(1, keepdim=True)
        return rows.view_as(form.rows), constant


class _Walker:
    """Walks back from some margins; keeps what the last walk met."""

    def __init__(
        self, inter: Intermediate, multipliers: _Multipliers | None, scoring: bool
    ) -> None:
        self.inter, self.multipliers, self.scoring = inter, multipliers, scoring
        self.witness: _Witness | None = None
        self.over_input: Tensor | None = None
        self.last: Tensor | None = None

    def __call__(self, part: tuple[Form, Tensor | None], mixed: Mixed) -> Tensor:
        (form, samples), inter = part, self.inter
        self.witness = _Witness(mixed, inter, self.scoring)
        found, total = backward.substitute(
            inter.net,
            inter.net.output.index,
            form,
            relaxation=self.witness,
            samples=samples,
            multipliers=self.multipliers,
        )
        if found is None:
            assert total is not None
            least = total
        else:
            self.over_input = found.rows[:, 0].detach()
            least = backward.minimum(found, inter, samples)
            least = least if total is None else least + total
        self.last = least.detach().squeeze(1)
        return least.squeeze(1)

    def over(self, box: Box, part: Tensor) -> Tensor:
        """Return the last form over the input, zero where no row came so far, ``(G, *shape)``."""
        return torch.zeros_like(box.lower)[part] if self.over_input is None else self.over_input


def reads_cells(net: Network) -> bool:
    """Whether a network sees its input through the cells of a grid alone."""
    readers = [node.operator for node in net.nodes if 0 in node.inputs]
    return bool(readers) and all(isinstance(operator, Steps) for operator in readers)


def climb(
    inter: Intermediate,
    parts: Parts,
    rows: Rows,
    threshold: Tensor,
    ascent: Ascent,
    layout: Layout | None,
    *,
    choices: int,
    by_pixels: Tensor,
    width: Tensor,
    level: Tensor | None = None,
    most: Tensor | None = None,
) -> Climbed:
    """Bound some margins of each part; every part has one at least.

    ``inter`` holds the bounds of every node over each part, without gradients, ``rows`` the
    margins, those of a part next to each other; bounds above ``threshold (N,)`` are good enough.
    The parts' own mixes, which lie as ``layout`` says, are begun with; without it lines begin
    anew. ``choices`` splits are looked for, none for 0: of pixels where ``by_pixels (N,)`` asks
    for them, whose widths in the whole region are ``width (N, *shape)``. Bounds count up to
    ``most (N,)``; what they leave of a part is told for the ``level (N,)``.
    """
    net = inter.net
    samples = None if len(rows.part) == len(parts) else rows.part  # None: group g is of part g
    initial = None if layout is None else layout.unpacked(parts.mixes[rows.part].to(inter.like))
    mixed = Mixed(Families(inter, ascent.start, initial or ()), None, initial)
    multipliers = _Multipliers(parts.splits, rows.part, inter.like)
    if inter.cuts:
        mixed.own[BETA] = multipliers.beta
    walker = _Walker(inter, multipliers if inter.cuts else None, choices > 0)
    form = rows.form(net.classes, inter.like)
    before, goal = parts.proved[rows.part, rows.target], threshold[rows.part]

    def enough(best: list[Tensor]) -> bool:
        return bool((torch.maximum(best[0], before) > goal).all())

    (found,) = ascend([((form, samples), mixed)], mixed.own, walker, ascent, enough)
    found = found.where(found.isfinite(), -torch.inf).to(before)
    if most is not None:
        found = torch.minimum(found, most[rows.part])
    proved = parts.proved.index_put((rows.part, rows.target), torch.maximum(before, found))
    worst = worst_groups(rows.part, found, len(parts))
    mixes = {key: mix.detach()[worst] for key, mix in mixed.own.items() if key != BETA}
    better = replace(
        parts,
        proved=proved,
        splits=replace(parts.splits, beta=multipliers.beta.detach()[worst]),
    )
    box = inter.region.box
    over_input = walker.over(box, rows.part)[worst]
    scores: tuple[Scored, ...] = ()
    if choices:
        assert walker.witness is not None
        pixels = choose.of_pixels(over_input, Bounds(box.lower, box.upper), width)
        scores = tuple(walker.witness.neurons(worst))
        if reads_cells(net):
            entries = [_picked(entry, worst) for entry in walker.witness.cells]
        else:
            entries = _allowed(scores, pixels, by_pixels)
        kept = parts.mixes if layout is None else layout.packed(mixes, parts.mixes)
        better = replace(better, choices=choose.best(entries, choices), mixes=kept)
    assert walker.last is not None
    half = Half.below(threshold if level is None else level, over_input, walker.last[worst], box)
    return Climbed(better, found, corner(over_input, box), mixes, half, scores)


def worst_groups(part: Tensor, found: Tensor, count: int) -> Tensor:
    """Return the group of the least bound of each part, ``(N,)``; of several the first.

    Group g is of part ``part[g]`` and has the bound ``found[g]``.
    """
    least = found.new_full((count,), torch.inf).scatter_reduce(0, part, found, "amin")
    each = torch.arange(len(found), device=found.device)
    first = each.where(found == least[part], len(found))
    return each.new_full((count,), len(found)).scatter_reduce(0, part, first, "amin")


def _allowed(neurons: Sequence[Scored], pixels: Scored, by_pixels: Tensor) -> list[Scored]:
    """Return the scores of each part, NOWHERE where it is not to be split.

    Pixels only where asked for, or where nothing else bends any more; and the other way round.
    """
    bent = torch.zeros_like(by_pixels)
    for entry in neurons:
        bent |= (entry.score > choose.NOWHERE).any(1)
    wide = (pixels.score > choose.NOWHERE).any(1)
    first = (by_pixels & wide) | ~bent
    kept = [e._replace(score=e.score.masked_fill(first[:, None], choose.NOWHERE)) for e in neurons]
    last = pixels.score.masked_fill(~first[:, None], choose.NOWHERE)
    return [*kept, pixels._replace(score=last)]


def _picked(entry: Scored, worst: Tensor) -> Scored:
    return entry._replace(score=entry.score[worst], at=entry.at[worst])


def corner(rows: Tensor, box: Box) -> Tensor:
    """Return the points of the boxes at which linear forms are least; the middle for a zero."""
    corner = torch.where(rows > 0, box.lower, box.upper)
    return torch.where(rows == 0, box.center, corner)
