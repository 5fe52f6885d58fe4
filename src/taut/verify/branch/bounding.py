"""Bounds of parts: their margins, and their neurons again where that pays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taut.bounds.interval import Intermediate
from taut.bounds.optimised import Ascent
from taut.bounds.refine import improve
from taut.verify.branch import parts as subproblems
from taut.verify.branch.climb import Climbed, Rows, climb
from taut.verify.branch.clip import clipped, worth
from taut.verify.branch.known import Table, crown, part_of, restricted
from taut.verify.branch.parts import Parts
from taut.verify.branch.root import Roots
from taut.verify.complete import Question

if TYPE_CHECKING:
    from taut.verify.branch.branch import Branch

_NEAR = 0.1  # of a linear bound's spread, what a part may lack to be clipped
_ABOVE = 1.01  # times the threshold, and
_MORE = 1e-9  # more: up to there bounds count where parts are clipped


@dataclass(frozen=True, eq=False)
class Bounding:
    """Bounds parts of regions.

    Attributes
    ----------
    question
        What is asked.
    settings
        How to go about it.
    roots
        What is known of the whole regions.
    table
        Which neurons' bounds are kept with parts.
    by_neurons
        Images split by neurons, ``(n,)``; each of their parts has one open margin, and is clipped
        (:mod:`taut.verify.branch.clip`).
    by_pixels
        Images split by pixels first, ``(n,)``.
    budget
        Bytes for coefficients.
    """

    question: Question
    settings: Branch
    roots: Roots
    table: Table
    by_neurons: Tensor
    by_pixels: Tensor
    budget: int

    @classmethod
    def of(
        cls,
        question: Question,
        settings: Branch,
        roots: Roots,
        by_pixels: Tensor,
        budget: int,
        *,
        cells: bool,
    ) -> Bounding:
        """Return what bounds parts of ``roots``; ``cells`` where pixels are seen through cells."""
        some = settings.clip > 0 and not cells
        return cls(
            question, settings, roots, Table.of(roots.inter), some & ~by_pixels, by_pixels, budget
        )

    def begun(self, regions: Parts) -> tuple[Parts, Parts]:
        """Return whole regions to be split at once, and to be bounded first those split by neurons.

        Of the latter each margin that is open is a part of its own.
        """
        # Lines may begin anywhere, and these numbers are most of what a part takes.
        regions = replace(regions, mixes=regions.mixes.half())
        alone = self.by_neurons[regions.image]
        if not bool(alone.any()):
            return regions, regions[alone]
        place = self.roots.place[regions.image]
        kept = self.table.packed(part_of(self.roots.inter, place), place)
        regions = replace(regions, kept=kept)
        some = regions[alone]
        opened = some.proved <= self.question.threshold[some.image, None]
        part, target = opened.nonzero().unbind(1)
        one = torch.zeros_like(opened[part]).scatter(1, target[:, None], value=True)
        proved = some.proved[part].where(one | ~opened[part], torch.inf)
        return regions[~alone], replace(some[part], proved=proved)

    def bare(self) -> Bounding:
        """Return the same for parts that keep nothing."""
        return replace(self, roots=replace(self.roots, layout=None))

    def kept(self, some: Parts) -> Parts:
        """Return parts with what they may keep."""
        if self.roots.layout is not None:
            return some
        return replace(some, mixes=some.mixes[:, :0], kept=some.kept[:, :0])

    def quick(self, halves: Parts, target: Tensor) -> Tensor:
        """Return a bound of one margin of each part, without steps, ``(N,)``."""
        each = torch.arange(len(halves), device=target.device)
        inter = restricted(
            self.roots.inter,
            self.roots.place,
            self.question.box,
            halves,
            self.table,
            onward=False,
        )
        start = Ascent(0, start=self.settings.ascent.start)
        return self._climbed(inter, halves, each, target, start, choices=0).found

    def bounded(self, some: Parts) -> Climbed:
        """Bound all open margins of each part; once more where it is nearly proved."""
        settings, threshold = self.settings, self.question.threshold[some.image]
        inter = restricted(self.roots.inter, self.roots.place, self.question.box, some, self.table)
        smaller = bool((some.splits.node == 0).any())
        if settings.refresh == "always" or (settings.refresh == "inputs" and smaller):
            inter = improve(inter, [crown(settings.ascent.start, self.budget)])
        part, target = (some.proved <= threshold[:, None]).nonzero().unbind(1)
        found = self._climbed(
            inter, some, part, target, settings.ascent, choices=settings.candidates
        )
        half = found.half
        near = (found.parts.worst <= threshold) & (half.slack < _NEAR * half.spread)
        near &= self.by_neurons[some.image]
        return self._again(inter, found, near) if bool(near.any()) else found

    def _again(self, inter: Intermediate, found: Climbed, near: Tensor) -> Climbed:
        """Bound some parts again where their margins could still fail."""
        settings = self.settings
        here, others = near.nonzero()[:, 0], (~near).nonzero()[:, 0]
        scores = [entry._replace(score=entry.score[here]) for entry in found.scores]
        inter = clipped(
            replace(
                part_of(inter, here), cuts={node: ends[here] for node, ends in inter.cuts.items()}
            ),
            found.half[here],
            worth(scores, settings.clip),
            settings.ascent.start,
            self.budget,
        )
        parts = found.parts[here]
        if parts.kept.shape[1]:
            kept = self.table.packed(inter, self.roots.place[parts.image])
            parts = replace(parts, kept=kept)
        better = self._climbed(
            inter,
            parts,
            torch.arange(len(parts), device=here.device),
            parts.proved.argmin(1),
            settings.ascent,
            choices=settings.candidates,
        )
        return replace(
            found,
            parts=subproblems.joined([found.parts[others], better.parts]),
            corner=torch.cat([found.corner[others], better.corner]),
        )

    def _climbed(
        self,
        inter: Intermediate,
        some: Parts,
        part: Tensor,
        target: Tensor,
        ascent: Ascent,
        *,
        choices: int,
    ) -> Climbed:
        question, image = self.question, some.image
        threshold = question.threshold[image]
        level = _ABOVE * threshold + _MORE
        return climb(
            inter,
            some,
            Rows(part, question.y[image[part]], target),
            threshold,
            ascent,
            self.roots.layout,
            choices=choices,
            by_pixels=self.by_pixels[image],
            width=2 * question.box.radius[image],
            level=level,
            most=level.where(self.by_neurons[image], torch.inf),
        )
