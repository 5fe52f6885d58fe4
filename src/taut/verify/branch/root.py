"""Whole regions: their bounds by ever dearer methods, for the images that need them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.interval import Intermediate
from taut.bounds.pairs import Pairing, paired, strongest
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
_WORTH = 0.05  # of what a bound lacks, what constraints on pairs have to bring to be kept
_HELD = 2  # pairs asked for by each constraint that the parts get
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


_Bounded = Callable[[list[int], float], list[_One]]
"""A step up the ladder: bounds some regions, until a time."""


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
        rows = self._stage(rows, self._first)
        if self.settings.every:
            rows = self._stage(rows, self._again)
        if self.settings.facets:  # octagons of a whole box say little of small ones inside
            fixed = (self.question.box.radius > 0).flatten(1).sum(1) > self.settings.pixels
            some = [row for row in rows if bool(fixed[row])]
            paired_up = set(self._stage(some, self._paired))
            rows = [row for row in rows if row in paired_up or not bool(fixed[row])]
        for row in list(rows):
            if not bool(self.ones[row].found.isfinite().all()):
                self.record.stop(row, "nan")
                self.record.close(self.ones[row].part)
                rows.remove(row)
        return self._gathered(rows) if rows else None

    def _stage(self, rows: list[int], bounded: _Bounded) -> list[int]:
        """Take one step up; return the rows that are still open."""
        if not rows:
            return []
        began = time.perf_counter()
        ends = began + _SHARE * sum(self.record.left(row) for row in rows)

        def work(some: list[int]) -> list[_One | None]:
            return list(bounded(some, ends))

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

    def _first(self, rows: list[int], ends: float) -> list[_One]:
        """Bound whole regions with the bounds of substitution."""
        index = torch.tensor(rows, device=self.question.y.device)
        bounder = until(ends, crown(self.settings.root.start, self.budget))
        inter = rooted(self.question.net, self.question.box[index], [bounder])
        return self._climbed(inter, self._whole(rows), None)

    def _again(self, rows: list[int], ends: float) -> list[_One]:
        """Bound the layers before with optimised lines too."""
        bounder = until(ends, climbed(self.settings.root, self.budget))
        inter = improve(joined([self.ones[row].inter for row in rows]), [bounder])
        return self._climbed(inter, self._known(rows)[0], None)

    def _paired(self, rows: list[int], ends: float) -> list[_One]:
        """Bound whole regions with constraints on pairs of neurons that serve the worst margin."""
        if time.perf_counter() >= ends:
            return [self.ones[row] for row in rows]
        settings, question = self.settings, self.question
        inter = joined([self.ones[row].inter for row in rows])
        part, layout = self._known(rows)
        each = torch.arange(len(part), device=part.image.device)
        worst = Rows(each, question.y[part.image], part.proved.argmin(1))
        inter = paired(
            inter,
            worst.form(question.net.classes, inter.like).rows,
            Pairing(settings.facets),
            settings.root,
            self.budget,
            layout.unpacked(part.mixes),
        )
        tied = torch.zeros_like(each, dtype=torch.bool)
        for facets in inter.facets.values():
            tied |= facets.present
        some = tied.nonzero()[:, 0]
        found = self._climbed(part_of(inter, some), part[some], layout) if len(some) else []
        better = iter(found)
        return [
            self._kept(self.ones[row], next(better)) if has else self.ones[row]
            for row, has in zip(rows, tied.tolist(), strict=True)
        ]

    def _kept(self, before: _One, after: _One) -> _One:
        """Keep the constraints that matter for the parts, none where they bring next to nothing."""
        least, most = before.part.worst, after.part.worst
        missing = self.question.threshold[before.part.image] - least
        if bool(most - least < _WORTH * missing):
            return after._replace(inter=before.inter, mixes=before.mixes)
        count = max(1, self.settings.facets // _HELD)
        inter, mixes = strongest(after.inter, after.mixes, count)
        return after._replace(inter=inter, mixes=mixes)

    def _known(self, rows: list[int]) -> tuple[Parts, Layout]:
        """Return whole regions bounded before, with the mixes they were bounded with."""
        ones = [self.ones[row] for row in rows]
        layout = Layout.of({key: mix for one in ones for key, mix in one.mixes.items()})
        size = sum(shape.numel() for _, shape in layout.keys)
        blank = self.question.box.lower.new_zeros(1, size)
        mixes = torch.cat([layout.packed(one.mixes, blank) for one in ones])
        return replace(subproblems.joined([one.part for one in ones]), mixes=mixes), layout

    def _climbed(self, inter: Intermediate, parts: Parts, layout: Layout | None) -> list[_One]:
        """Bound the margins that are open, some regions at a time."""
        limit = min(self.settings.batch_size, group_limit(inter, self.budget))
        size = max(1, limit // max(1, self.question.net.classes - 1))
        found = []
        for lot in torch.arange(len(parts), device=parts.image.device).split(size):
            found += self._lot(part_of(inter, lot), parts[lot], layout)
        return found

    def _lot(self, inter: Intermediate, part: Parts, layout: Layout | None) -> list[_One]:
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
            layout,
            choices=settings.candidates,
            by_pixels=(width > 0).flatten(1).sum(1) <= settings.pixels,
            width=width,
        )
        bare = replace(found.parts, mixes=found.parts.mixes[:, :0])
        ones = []
        for at in range(len(part)):
            here, mine = torch.tensor([at], device=group.device), group == at
            mixes = {key: mix[here] for key, mix in found.mixes.items()}
            ones.append(
                _One(part_of(inter, here), bare[here], found.found[mine], found.corner[here], mixes)
            )
        return ones

    def _whole(self, rows: list[int]) -> Parts:
        index = torch.tensor(rows, device=self.question.y.device)
        return subproblems.whole(index, self.question.proved[index], self.question.box.lower)

    def _proved(self, part: Parts) -> bool:
        return bool((part.proved > self.question.threshold[part.image, None]).all())

    def _gathered(self, rows: list[int]) -> Roots:
        """Return the roots of several images as one."""
        part, layout = self._known(rows)
        place = torch.full_like(self.question.y, -1)
        place[part.image] = torch.arange(len(rows), device=place.device)
        return Roots(joined([self.ones[row].inter for row in rows]), place, part, layout)


def group_limit(inter: Intermediate, budget: int) -> int:
    """Return how many margins an ascent can take at once within a budget of bytes."""
    source = inter.net.output.index
    pair = torch.zeros(1, 2, dtype=torch.int64, device=inter.like.device)
    relaxation = backward.family(inter, "adaptive")
    return 2 * chunk_size(inter, source, pair, relaxation, budget // _KEPT, kept=True)
