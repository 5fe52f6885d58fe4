"""Whole regions: their bounds by ever dearer methods, for the images that need them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.interval import Intermediate
from taut.bounds.refine import improve
from taut.bounds.rows import chunk_size
from taut.verify.branch import parts as subproblems
from taut.verify.branch.climb import Climbed, Layout, Rows, climb
from taut.verify.branch.known import climbed, crown, joined, part_of, rooted, until
from taut.verify.branch.parts import Parts
from taut.verify.branch.points import Prober
from taut.verify.branch.record import Record
from taut.verify.complete import Question
from taut.verify.memory import in_halves

if TYPE_CHECKING:
    from taut.verify.branch.branch import Branch

_SHARE = 0.5  # of an image's time, what bounding its whole region may take
_KEPT = 4  # numbers a gradient step holds for each that a walk makes


@dataclass(frozen=True, eq=False)
class Roots:
    """What is known of the whole regions of the images that are open.

    ``place`` says where an image is among the bounds of all nodes; ``parts`` are the regions
    themselves, with the mixes they were bounded with, which lie as ``layout`` says; None
    where they are not kept.
    """

    inter: Intermediate
    place: Tensor
    parts: Parts
    layout: Layout | None


class _One(NamedTuple):
    """What bounding one whole region gave."""

    inter: Intermediate
    part: Parts
    found: Tensor
    corner: Tensor
    mixes: dict[tuple[int, str], Tensor]


class Planter:
    """Bounds whole regions."""

    def __init__(
        self, question: Question, settings: Branch, record: Record, prober: Prober, budget: int
    ) -> None:
        self.question, self.settings, self.budget = question, settings, budget
        self.record, self.prober = record, prober
        self.ones: dict[int, _One] = {}

    def plant(self, rows: list[int]) -> Roots | None:
        """Bound whole regions and close what that decides; return the others, None without."""
        rows = self._stage(rows, again=False)
        if self.settings.every:
            rows = self._stage(rows, again=True)
        for row in list(rows):
            if not bool(self.ones[row].found.isfinite().all()):
                self.record.stop(row, "nan")
                self.record.close(self.ones[row].part)
                rows.remove(row)
        return self._gathered([self.ones[row] for row in rows]) if rows else None

    def _stage(self, rows: list[int], *, again: bool) -> list[int]:
        """Take one step up; return the rows that are still open."""
        if not rows:
            return []
        began = time.perf_counter()
        ends = began + _SHARE * sum(self.record.left(row) for row in rows)

        def work(some: list[int]) -> list[_One | None]:
            return list(self._bounded(some, ends, again=again))

        found = in_halves(work, rows, None)
        left = []
        for row, one in zip(rows, found, strict=True):
            if one is not None:
                self.ones[row] = one
            elif row not in self.ones:
                self.record.stop(row, "memory")
                self.record.close(self._whole([row]))
                continue
            if self._proved(self.ones[row].part):
                self.record.close(self.ones[row].part)
                self.record.settle([row])
            else:
                left.append(row)
        self.record.count(rows)
        if left:
            corners = torch.cat([self.ones[row].corner for row in left])
            images = torch.cat([self.ones[row].part.image for row in left])
            self.record.broken(self.prober(images, corners, self.question.box[images]))
        self.record.spend(rows, time.perf_counter() - began)
        for row in left:
            if not self.record.is_open(row):
                self.record.close(self.ones[row].part)
        return [row for row in left if self.record.is_open(row)]

    def _bounded(self, rows: list[int], ends: float, *, again: bool) -> list[_One]:
        settings, question = self.settings, self.question
        index = torch.tensor(rows, device=question.y.device)
        if again:
            known = joined([self.ones[row].inter for row in rows])
            bounder = until(ends, climbed(settings.root, self.budget))
            inter = improve(known, [bounder])
            part = subproblems.joined([self.ones[row].part for row in rows])
        else:
            bounder = until(ends, crown(settings.root.start, self.budget))
            inter = rooted(question.net, question.box[index], [bounder])
            part = self._whole(rows)
        limit = min(settings.batch_size, group_limit(inter, self.budget))
        size = max(1, limit // max(1, question.net.classes - 1))
        found = []
        for lot in torch.arange(len(rows), device=index.device).split(size):
            found += self._climbed(part_of(inter, lot), part[lot])
        return found

    def _climbed(self, inter: Intermediate, part: Parts) -> list[_One]:
        question, settings = self.question, self.settings
        threshold = question.threshold[part.image]
        width = 2 * question.box[part.image].radius
        group, target = (part.proved <= threshold[:, None]).nonzero().unbind(1)
        found: Climbed = climb(
            inter,
            part,
            Rows(group, question.y[part.image[group]], target),
            threshold,
            settings.root,
            None,
            choices=settings.candidates,
            by_pixels=(width > 0).flatten(1).sum(1) <= settings.pixels,
            width=width,
        )
        ones = []
        for at in range(len(part)):
            here, mine = torch.tensor([at], device=group.device), group == at
            mixes = {key: mix[here] for key, mix in found.mixes.items()}
            ones.append(
                _One(
                    part_of(inter, here),
                    found.parts[here],
                    found.found[mine],
                    found.corner[here],
                    mixes,
                )
            )
        return ones

    def _whole(self, rows: list[int]) -> Parts:
        index = torch.tensor(rows, device=self.question.y.device)
        return subproblems.whole(index, self.question.proved[index], self.question.box.lower)

    def _proved(self, part: Parts) -> bool:
        return bool((part.proved > self.question.threshold[part.image, None]).all())

    def _gathered(self, ones: list[_One]) -> Roots:
        """Return the roots of several images as one."""
        part = subproblems.joined([one.part for one in ones])
        place = torch.full_like(self.question.y, -1)
        place[part.image] = torch.arange(len(ones), device=place.device)
        layout = Layout.of({key: mix for one in ones for key, mix in one.mixes.items()})
        size = sum(shape.numel() for _, shape in layout.keys)
        blank = self.question.box.lower.new_zeros(1, size)
        mixes = torch.cat([layout.packed(one.mixes, blank) for one in ones])
        inter = joined([one.inter for one in ones])
        return Roots(inter, place, replace(part, mixes=mixes), layout)


def group_limit(inter: Intermediate, budget: int) -> int:
    """Return how many margins an ascent can take at once within a budget of bytes."""
    source = inter.net.output.index
    pair = torch.zeros(1, 2, dtype=torch.int64, device=inter.like.device)
    relaxation = backward.family(inter, "adaptive")
    return 2 * chunk_size(inter, source, pair, relaxation, budget // _KEPT, kept=True)
