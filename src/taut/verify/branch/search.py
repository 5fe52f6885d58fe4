"""The loop of branch and bound: take the worst parts, split, bound, attack, settle."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taut.bounds.budget import allowance
from taut.errors import out_of_memory
from taut.verify.branch import cells, parts
from taut.verify.branch.bounding import Bounding
from taut.verify.branch.climb import Climbed, reads_cells
from taut.verify.branch.parts import NONE, Parts
from taut.verify.branch.points import Prober
from taut.verify.branch.record import Record
from taut.verify.branch.root import Planter, Roots, group_limit
from taut.verify.branch.tiles import Tiling
from taut.verify.complete import Answer, Question

if TYPE_CHECKING:
    from taut.verify.branch.branch import Branch

_KEPT = 2**27  # bytes of lines and bounds kept with parts; where they take more, all begin anew
_EVALUATED = 256  # combinations of cells evaluated at once


class Search:
    """One run of branch and bound over the images of a question."""

    def __init__(self, settings: Branch, question: Question) -> None:
        self.settings = settings
        self.question = replace(question, net=question.net.detached())
        self.record = Record(question, settings.parts, settings.give_up)
        self.prober = Prober(question, settings.attack_steps)
        self.budget = allowance(settings.budget, question.box.device)
        self.cells = reads_cells(self.question.net)
        moving = (question.box.radius > 0).flatten(1).sum(1)
        self.by_pixels = moving <= settings.pixels
        self.size = settings.batch_size
        self.open = parts.whole(question.y[:0], question.proved[:0], question.box.lower)
        self.bounding: Bounding | None = None

    def run(self) -> list[Answer]:
        """Return an answer for each image."""
        with torch.no_grad():
            self._begin()
            while len(self.open):
                self._step(self._next())
        return self.record.answers()

    def _begin(self) -> None:
        """Settle what is proved, what has few cells, and what bounds of whole regions decide."""
        question, record = self.question, self.record
        every = torch.arange(len(question.y), device=question.y.device)
        whole = parts.whole(every, question.proved, question.box.lower)
        proved = (whole.proved > question.threshold[:, None]).all(1)
        record.close(whole[proved])
        record.settle(whole.image[proved].tolist())
        left = whole[~proved]
        if self.cells and len(left):
            began = time.perf_counter()
            few = self._few(left)
            self._evaluated(left[few])
            record.settle(left.image[few].tolist())
            record.spend(left.image[few].tolist(), time.perf_counter() - began)
            left = left[~few]
        left = self._tiled(left)
        if len(left):
            planter = Planter(question, self.settings, record, self.prober, self.budget)
            roots = planter.plant(left.image.tolist())
            if roots is not None:
                self._planted(roots)

    def _planted(self, roots: Roots) -> None:
        """Begin with whole regions, or with each of their margins that is open by itself."""
        self.size = min(self.size, group_limit(roots.inter, self.budget))
        self.bounding = Bounding.of(
            self.question, self.settings, roots, self.by_pixels, self.budget, cells=self.cells
        )
        whole, margins = self.bounding.begun(roots.parts)
        self._keep(whole)
        for some in torch.arange(len(margins), device=margins.image.device).split(self.size):
            self._step(self.bounding.kept(margins[some]), split=False)

    def _tiled(self, left: Parts) -> Parts:
        """Decide images of which few pixels move by splitting these alone; return the others."""
        tiling = Tiling(self.settings, self.question, self.record, self.prober, self.budget)
        taken = tiling.takes(left.image)
        for image in left.image[taken].tolist():
            tiling.search(image)
        return left[~taken]

    def _next(self) -> Parts:
        """Take the worst parts of each image in turn out of the open ones."""
        worst = torch.full_like(self.question.threshold, torch.inf).scatter_reduce(
            0, self.open.image, self.open.worst.to(self.question.threshold), "amin"
        )
        self.record.near(((worst > 0) & worst.isfinite()).nonzero()[:, 0].tolist())
        self.record.rise(worst.tolist())
        self.record.expire()
        going = torch.zeros(len(self.question.y), dtype=torch.bool, device=self.question.y.device)
        going[self.record.going()] = True
        alive = going[self.open.image]
        self.record.close(self.open[~alive])
        found = self.open[alive]
        order = _in_turn(found.image, found.worst)
        rows = (found.proved <= self.question.threshold[found.image, None]).sum(1)[order]
        taken = int((2 * rows.cumsum(0) <= self.size).sum())
        taken = max(taken, min(1, len(order)))
        self.open = found[order[taken:]]
        return found[order[:taken]]

    def _step(self, batch: Parts, *, split: bool = True) -> None:
        """Split and bound a batch; halve the batches to come where memory runs out."""
        if len(batch) == 0:
            return
        began, fits = time.perf_counter(), True
        try:
            self._bounded(batch.halves(self._chosen(batch)) if split else batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            fits = False
        if not fits and len(batch) == 1:
            self.record.stop(int(batch.image), "memory")
            self.record.close(batch)
        elif not fits:
            self.size = max(1, self.size // 2)
            self.open = parts.joined([self.open, batch]) if len(self.open) else batch
        self.record.spend(batch.image.tolist(), time.perf_counter() - began)

    def _chosen(self, batch: Parts) -> Tensor:
        """Return which choice splits each part best, judged by a quick bound of both halves.

        Pixels are taken by their score: what a smaller input is worth only new bounds of all
        layers would show.
        """
        nodes = batch.choices.node
        count, width = nodes.shape
        best = torch.zeros(count, dtype=torch.int64, device=nodes.device)
        inner = (nodes != NONE) & (nodes[:, :1] != 0)
        where, choice = inner.nonzero().unbind(1)
        if width == 1 or len(where) == 0:
            return best
        assert self.bounding is not None
        target = batch.proved.argmin(1)
        score = torch.full(
            (count, width), -torch.inf, dtype=batch.proved.dtype, device=nodes.device
        )
        size = max(1, self.size // 2)
        for some, column in zip(where.split(size), choice.split(size), strict=True):
            halves = batch[some].halves(column)
            left, right = self.bounding.quick(halves, target[some].repeat(2)).chunk(2)
            score[some, column] = torch.minimum(left, right)
        return score.argmax(1)

    def _bounded(self, halves: Parts) -> None:
        """Bound the open margins of parts and settle them; nothing is noted where that fails."""
        few = self._few(halves) if self.cells else torch.zeros_like(halves.image, dtype=torch.bool)
        many = halves[~few]
        found = None
        if len(many):
            assert self.bounding is not None
            found = self.bounding.bounded(many)
        self._evaluated(halves[few])
        if found is not None:
            self._settle(found)

    def _few(self, some: Parts) -> Tensor:
        """Tell which parts have few enough combinations of cells to evaluate all."""
        counts = cells.combinations(self.question.net, some.box(self.question.box))
        return counts <= self.settings.combinations

    def _evaluated(self, few: Parts) -> None:
        """Decide parts of few cells by evaluating all of them."""
        question, box = self.question, few.box(self.question.box)
        for at, image in enumerate(few.image.tolist()):
            here = torch.tensor([at], device=few.image.device)
            part = few[here]
            if self.record.is_open(image):
                found, point = cells.least(
                    question.net, box[here], question.y[image][None], _EVALUATED
                )
                part = replace(part, proved=torch.maximum(part.proved, found[None].to(part.proved)))
                self.record.count([image])
                if float(found.amin()) < 0:
                    self.record.broken(self.prober(part.image, point[None], box[here]))
            self.record.close(part)

    def _settle(self, found: Climbed) -> None:
        """Close what is proved or cannot be split, attack the rest and keep it open."""
        some = found.parts
        self.record.count(some.image.tolist())
        done = (some.proved > self.question.threshold[some.image, None]).all(1)
        self.record.close(some[done])
        left = some[~done]
        if len(left):
            box = left.box(self.question.box)
            self.record.broken(self.prober(left.image, found.corner[~done], box))
            self._keep(left)

    def _keep(self, some: Parts) -> None:
        """Keep parts open that can be split; close the others."""
        stuck = some.choices.node[:, 0] == NONE
        self.record.close(some[stuck])
        more = some[~stuck]
        self.open = parts.joined([self.open, more]) if len(self.open) else more
        held = self.open.mixes.nbytes + self.open.kept.nbytes
        if held > min(_KEPT, self.budget) and self.bounding is not None:
            self.bounding = self.bounding.bare()
            self.open = self.bounding.kept(self.open)


def _in_turn(image: Tensor, worst: Tensor) -> Tensor:
    """Return the order of parts: the worst of every image, then the second worst, and so on."""
    by_worst = worst.argsort(stable=True)
    order = by_worst[image[by_worst].argsort(stable=True)]  # by image, in it by bound
    sorted_image = image[order]
    place = torch.arange(len(order), device=order.device)
    first = torch.ones_like(sorted_image, dtype=torch.bool)
    first[1:] = sorted_image[1:] != sorted_image[:-1]
    begin = place.where(first, 0).cummax(0).values
    rank = place - begin
    return order[rank.argsort(stable=True)]
