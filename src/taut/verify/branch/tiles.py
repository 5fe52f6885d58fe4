r"""Few moving inputs of a small network: regions cut into boxes alone, many at once.

Every box gets bounds of all neurons of its own: zonotopes first, which cost a forward pass for each
error term; where they leave a margin open, substitution for the neurons that still bend. No slopes
are optimised. A box that stays open is halved along the input that matters most for its open
margins,

.. math:: \max\Big(w_i, \frac{\max_j w_j}{100}\Big)\,\frac{u_i - l_i}{U_i - L_i}, \qquad
    w_i = (U_i - L_i) \sum_k |a_{ki}|

where :math:`a_k` is the linear function that bounds margin k from below and [L, U] the whole
region: the smear of the margins, with a floor, so that an input whose coefficient cancels here
is not left alone for ever. Bounds are computed anew for each box, and a box whose neurons all
keep to one piece has the exact minimum, up to rounding.
Sources: Wang et al. 2018 (ReluVal: splitting inputs by smear); Singh et al. 2018 (zonotopes);
Zhang et al. 2018 (substitution).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.interval import Intermediate
from taut.bounds.refine import improve
from taut.bounds.rows import BRISK
from taut.bounds.zonotope import Zonotope
from taut.errors import out_of_memory
from taut.graph.network import Network
from taut.operators.cells import Steps
from taut.region import Box
from taut.verify.branch.climb import Rows, corner, worst_groups
from taut.verify.branch.known import crown, part_of
from taut.verify.branch.parts import NONE
from taut.verify.branch.points import Prober
from taut.verify.branch.record import Record
from taut.verify.complete import Question

if TYPE_CHECKING:
    from taut.verify.branch.branch import Branch

_FLOOR = 0.01
_LEAST = 16  # boxes that have to fit into a batch for small networks to be small
_PROBES = 4  # in one of so many batches attacks go on from the most promising points
_LEADERS = 8
_LOOKS = 8  # in one of so many batches substitution is tried on every open tile
_MOST = 0.9  # share of tiles


@dataclass(frozen=True, eq=False)
class Tiles:
    """Boxes of one image's region, ``lower`` and ``upper (N, d)`` of the inputs that move.

    ``proved (N, K)`` are lower bounds of the margins, +inf at the true class; ``along (N,)`` is
    the input to halve next, NONE where no float lies between the ends of any; ``value (N,)`` the
    least margin met at points of the tile.
    """

    of: int
    lower: Tensor
    upper: Tensor
    proved: Tensor
    along: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.proved)

    def __getitem__(self, index: Tensor | slice) -> Tiles:
        return Tiles(
            self.of,
            self.lower[index],
            self.upper[index],
            self.proved[index],
            self.along[index],
            self.value[index],
        )

    @property
    def image(self) -> Tensor:
        """Whose region each is a part of, int64 ``(N,)``."""
        return torch.full((len(self),), self.of, device=self.proved.device)

    @property
    def worst(self) -> Tensor:
        """The least bound of each tile, ``(N,)``."""
        return self.proved.amin(1)

    def halves(self) -> Tiles:
        """Cut each tile in the middle of its input: all left halves, then the right ones."""
        at = self.along[:, None]
        middle = torch.lerp(self.lower, self.upper, 0.5).gather(1, at)
        return Tiles(
            self.of,
            torch.cat([self.lower, self.lower.scatter(1, at, middle)]),
            torch.cat([self.upper.scatter(1, at, middle), self.upper]),
            self.proved.repeat(2, 1),
            self.along.repeat(2),
            self.value.repeat(2),
        )


class Pile:
    """Open tiles in lots, those near the least margin met first.

    For a proof any order will do; a counterexample is found sooner so.
    """

    def __init__(self) -> None:
        self._lots: list[tuple[float, int, float, Tiles]] = []
        self._made = 0

    def __bool__(self) -> bool:
        return bool(self._lots)

    @property
    def worst(self) -> float:
        """The least bound of an open tile."""
        return min(worst for _, _, worst, _ in self._lots)

    def put(self, tiles: Tiles, size: int) -> None:
        """Add tiles, sorted into lots of ``size``."""
        tiles = tiles[tiles.value.argsort(stable=True)]
        for start in range(0, len(tiles), size):
            lot = tiles[start : start + size]
            self._made += 1  # of equal values the younger first: fewer stay open
            entry = (float(lot.value[0]), -self._made, float(lot.worst.amin()), lot)
            heapq.heappush(self._lots, entry)

    def take(self, size: int) -> Tiles:
        """Take at most ``size`` tiles out, and one at least."""
        lots: list[Tiles] = []
        count = 0
        while self._lots and (not lots or count + len(self._lots[0][3]) <= size):
            lots.append(heapq.heappop(self._lots)[3])
            count += len(lots[-1])
        taken = joined(lots)
        if len(taken) > size:  # from before batches were halved
            self.put(taken[size:], size)
        return taken[:size]

    def rest(self) -> Iterator[Tiles]:
        """Return all tiles that are open, lot by lot."""
        return (lot for _, _, _, lot in self._lots)


def joined(lots: list[Tiles]) -> Tiles:
    """Return tiles of one image together."""
    if len(lots) == 1:
        return lots[0]
    return Tiles(
        lots[0].of,
        torch.cat([lot.lower for lot in lots]),
        torch.cat([lot.upper for lot in lots]),
        torch.cat([lot.proved for lot in lots]),
        torch.cat([lot.along for lot in lots]),
        torch.cat([lot.value for lot in lots]),
    )


def fitting(net: Network, moving: int, budget: int, like: Tensor) -> int:
    """Return how many tiles to bound at once: what the zonotopes of so many take, or 0.

    0 where the network is too large for that to be fast, or sees its input through cells.
    """
    if any(isinstance(node.operator, Steps) for node in net.nodes):
        return 0
    bending = sum(torch.Size(net.nodes[index].shape).numel() for index in net.bent())
    widest = max(torch.Size(node.shape).numel() for node in net.nodes)
    if like.device.type == "cpu":
        budget = min(budget, BRISK)
    size = budget // ((moving + bending) * widest * like.element_size())
    return size if size >= _LEAST else 0


class Tiling:
    """The search over the tiles of one image after the other."""

    def __init__(
        self, settings: Branch, question: Question, record: Record, prober: Prober, budget: int
    ) -> None:
        self.settings, self.question, self.budget = settings, question, budget
        self.record, self.prober = record, prober
        moving = (question.box.radius > 0).flatten(1).sum(1)
        self.few = (moving > 0) & (moving <= settings.pixels) & settings.tiles
        most = int(moving[self.few].max()) if bool(self.few.any()) else 0
        self.size = fitting(question.net, most, budget, question.box.lower)

    def takes(self, images: Tensor) -> Tensor:
        """Tell which images are searched by tiles, ``(N,)``."""
        return self.few[images] & (self.size > 0)

    def search(self, image: int) -> None:
        """Decide an image, or stop it for a reason; no tile of it stays open."""
        _One(self, image).run()


class _One:
    """The search over one image."""

    def __init__(self, tiling: Tiling, image: int) -> None:
        self.tiling, self.question, self.record = tiling, tiling.question, tiling.record
        self.image, self.size = image, tiling.size
        box = self.question.box[slice(image, image + 1)]
        self.low, self.high = box.lower.flatten(), box.upper.flatten()
        self.moving = (self.low < self.high).nonzero()[:, 0]
        self.whole = (self.high - self.low)[self.moving]
        self.threshold = self.question.threshold[image]
        self.pile, self.batches, self.gained = Pile(), 0, 1.0

    def run(self) -> None:
        """Bound the region, then halve and bound until nothing is open."""
        whole = Tiles(
            self.image,
            self.low[self.moving][None],
            self.high[self.moving][None],
            self.question.proved[self.image][None],
            torch.full((1,), NONE, device=self.low.device),
            torch.zeros(1, device=self.low.device),
        )
        self._step(whole)
        while self.pile and self.record.is_open(self.image):
            if self.threshold >= self.pile.worst > 0:
                self.record.near([self.image])
            self.record.expire()
            if self.record.is_open(self.image):
                self._step(self.pile.take(max(1, self.size // 2)))
        for lot in self.pile.rest():
            self.record.close(lot)
        if self.record.is_open(self.image):
            self.record.settle([self.image])

    def _step(self, batch: Tiles) -> None:
        """Halve and bound a batch; halve the batches to come where memory runs out."""
        began, fits = time.perf_counter(), True
        try:
            self._bounded(batch if bool((batch.along == NONE).any()) else batch.halves())
        except Exception as error:
            if not out_of_memory(error):
                raise
            fits = False
        if not fits and len(batch) == 1:
            self.record.stop(self.image, "memory")
            self.record.close(batch)
        elif not fits:
            self.size = max(1, self.size // 2)
            self.pile.put(batch, self.size)
        self.record.spend([self.image], time.perf_counter() - began)

    def _bounded(self, tiles: Tiles) -> None:
        """Bound tiles; close what is proved or cannot be halved and keep the rest open."""
        net, budget = self.question.net, self.tiling.budget
        inter = Zonotope(budget=budget).intermediate(net, self._box(tiles))
        found = self._margins(inter, tiles)
        left = self._open(found.tiles)
        some = self._tried(found.tiles[left], found.corner[left])
        some = self._refined(part_of(inter, left.nonzero()[:, 0]), some)
        self.record.count([self.image] * len(tiles))
        self.record.close(found.tiles[~left])
        left = self._open(some)
        stuck = left & (some.along == NONE)
        self.record.close(some[~left | stuck])
        if bool((left & ~stuck).any()):
            self.pile.put(some[left & ~stuck], max(1, self.size // 2))
        self.batches += 1

    def _tried(self, some: Tiles, corner: Tensor) -> Tiles:
        """Try the corners that bounds point at and the middles; note what they break."""
        if len(some) == 0:
            return some
        box, prober = self._box(some), self.tiling.prober
        both = Box(torch.cat([box.lower, box.lower]), torch.cat([box.upper, box.upper]))
        image = torch.cat([some.image, some.image])
        points, values = prober.tried(image, torch.cat([corner, box.center]))
        leaders = _LEADERS if self.batches % _PROBES == 0 else 0
        self.record.broken(prober.broken(image, points, values, both, leaders=leaders))
        return replace(some, value=values.view(2, -1).amin(0))

    def _refined(self, inter: Intermediate, some: Tiles) -> Tiles:
        """Bound tiles by substitution where that may close them.

        A tile is closed when the distance of its bound to the least margin met in it shrinks by
        ``needed``; of late most shrank by no more than ``self.gained``. Now and then all are
        bounded, to see what is gained.
        """
        gap = some.value - some.worst
        needed = (self.threshold - some.worst) / gap
        chosen = needed <= self.gained
        if self.batches % _LOOKS == 0:
            chosen = torch.ones_like(chosen)
        index = chosen.nonzero()[:, 0]
        if len(index) == 0:
            return some
        lines = crown(self.tiling.settings.ascent.start, self.tiling.budget)
        found = self._margins(improve(part_of(inter, index), [lines]), some[index])
        if self.batches == 0 and not found.finite:
            self.record.stop(self.image, "nan")
        gained = (found.tiles.worst - some.worst[index]) / gap[index]
        last = float(gained.nan_to_num(0.0).clamp(0.0, 1.0).quantile(_MOST))
        self.gained = last if self.batches == 0 else (self.gained + last) / 2
        return joined([some[~chosen], found.tiles])

    def _margins(self, inter: Intermediate, tiles: Tiles) -> _Found:
        """Bound the open margins of tiles from the bounds of the layers before."""
        net, label = self.question.net, self.question.y[self.image]
        part, target = (tiles.proved <= self.threshold).nonzero().unbind(1)
        form, constant = backward.substitute(
            net,
            net.output.index,
            Rows(part, label.expand_as(part), target).form(net.classes, inter.like),
            relaxation=backward.family(inter, self.tiling.settings.ascent.start),
            samples=part,
        )
        box = self._box(tiles)
        if form is None:
            assert constant is not None
            least, rows = constant, torch.zeros_like(box.lower)[part].flatten(1)
        else:
            least, rows = backward.minimum(form, inter, part), form.rows.flatten(1)
            least = least if constant is None else least + constant
        least = least[:, 0].to(tiles.proved)
        found = least.where(least.isfinite(), -torch.inf)
        index = (part, target)
        proved = tiles.proved.index_put(index, torch.maximum(tiles.proved[index], found))
        still = (found <= self.threshold).to(rows)[:, None]
        mattering = torch.zeros_like(box.lower).flatten(1)
        mattering = mattering.index_add(0, part, rows.abs() * still)[:, self.moving]
        better = replace(tiles, proved=proved, along=self._along(tiles, mattering))
        worst = rows[worst_groups(part, found, len(tiles))].view_as(box.lower)
        return _Found(better, corner(worst, box), bool(least.isfinite().all()))

    def _along(self, tiles: Tiles, mattering: Tensor) -> Tensor:
        """Return the input to halve next, from the sums of the margins' coefficients ``(N, d)``."""
        middle = torch.lerp(tiles.lower, tiles.upper, 0.5)
        weight = mattering * self.whole
        weight = torch.maximum(weight, _FLOOR * weight.amax(1, keepdim=True))
        # Where no input matters the widest is halved.
        weight = weight.where(weight.amax(1, keepdim=True) > 0, 1.0)
        score = weight * (tiles.upper - tiles.lower) / self.whole
        inside = (tiles.lower < middle) & (middle < tiles.upper)
        return score.where(inside, -1.0).argmax(1).where(inside.any(1), NONE)

    def _open(self, tiles: Tiles) -> Tensor:
        return (tiles.proved <= self.threshold).any(1)

    def _box(self, tiles: Tiles) -> Box:
        """Return the tiles as boxes of whole inputs, ``(N, *shape)``."""

        def filled(rest: Tensor, end: Tensor) -> Tensor:
            every = rest.expand(len(end), -1).index_copy(1, self.moving, end)
            return every.view(-1, *self.question.box.shape[1:])

        return Box(filled(self.low, tiles.lower), filled(self.high, tiles.upper))


@dataclass(frozen=True, eq=False)
class _Found:
    """Tiles with better bounds, the corners the worst margins point at, and if all were finite."""

    tiles: Tiles
    corner: Tensor
    finite: bool
