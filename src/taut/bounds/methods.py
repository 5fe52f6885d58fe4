"""The bounding grid: what bounds the layers before, how far rows go back, with which lines.

A method is a frozen description of what to compute; its calls are pure functions
of a network and a region. :mod:`taut.bounds.registry` names its points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from taut.bounds import backward, interval, relaxed
from taut.bounds.budget import allowance
from taut.bounds.cuts import Cuts, cut
from taut.bounds.entry import behind_cells
from taut.bounds.form import Form
from taut.bounds.forward import Sweep, numbers_per_pixel
from taut.bounds.interval import Intermediate
from taut.bounds.optimised import Ascent, optimised_pairs, optimised_rows
from taut.bounds.pairs import Pairing, paired
from taut.bounds.refine import improve, refine
from taut.errors import ConfigError
from taut.graph.network import Network, Node
from taut.operators.forms import LINES, Bounds, Interval
from taut.property import margin_rows, pad_true_class
from taut.region import Region


@dataclass(frozen=True)
class Info:
    """What the documentation says of a method."""

    name: str
    title: str
    formula: str
    cost: str
    memory: str
    paper: str


class BoundMethod(Protocol):
    """A way to bound a network over a region."""

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return lower bounds of ``z_y - z_j``, ``(B, K)``, +inf in column y.

        The image is proved when ``margins.amin(1) > 0``.
        """


Solve = Callable[[Network, Region, Tensor], Tensor]
"""Bounds rows ``(B, R, K)`` over the logits from below, ``(B, R)``."""


@dataclass(frozen=True)
class IBP:
    """Interval bound propagation with the last layer merged into the margins."""

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""
        return Info(
            "ibp",
            "interval bound propagation",
            "c' = W c + b, r' = |W| r; l' = s(l), u' = s(u)",
            "2 forward passes",
            "O(widest layer)",
            "Gowal et al. 2018, arXiv:1810.12715; Mirman et al. 2018",
        )

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""
        return outputs_by(self._lower, net, region)

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return elided IBP margins, ``(B, K)``."""
        return margins_by(self._lower, net, region, y)

    def _lower(self, net: Network, region: Region, rows: Tensor) -> Tensor:
        inter = interval.propagate(net, region, keep_all=False)
        return backward.lower(net, net.output.index, rows, inter, lines=None)


@dataclass(frozen=True)
class Backward:
    """Backward substitution: every linear-relaxation method with fixed lines.

    Parameters
    ----------
    before
        How the activations' inputs are bounded: ``ibp``, ``lbp``, or ``crown`` for
        substitution from every layer, to the same depth.
    lines
        A family of :data:`taut.operators.LINES`, or ``best``: tight and adaptive both, the
        better one per margin (and one after the other per neuron with ``before="crown"``).
    depth
        How many activations rows go back through; None goes to the input. They land on
        intervals (``ibp``), on LBP's linear bounds (``lbp``; with depth 1 this is LBP), or on
        the linear bounds found by substitution of that depth (``crown``: Relaxed-CROWN-v).
    intersect
        Whether a layer's bounds are never worse than intervals. Without, they are as
        published, and every neuron is bounded.
    budget
        Bytes for coefficients; a quarter of what is free by default.

    """

    before: str = "ibp"
    lines: str = "best"
    depth: int | None = None
    intersect: bool = True
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.before not in ("ibp", "lbp", "crown"):
            raise ConfigError(f"before must be ibp, lbp or crown; got {self.before!r}")
        if self.depth is not None and self.depth < 1:
            raise ConfigError(f"depth must be at least 1, or None for the input; got {self.depth}")
        if self.lines not in (*LINES, "best"):
            raise ConfigError(f"lines must be one of {', '.join(LINES)}, best; got {self.lines!r}")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"budget must be a positive number of bytes; got {self.budget}")

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""
        from taut.bounds.registry import describe

        return describe(self.before, self.depth, self.lines)

    @property
    def families(self) -> tuple[str, ...]:
        """The line families that are tried."""
        return ("tight", "adaptive") if self.lines == "best" else (self.lines,)

    @property
    def _from_pixels(self) -> bool:
        """Whether nothing is carried forward from the input, so that families share bounds."""
        return self.before == "ibp" or (self.before == "crown" and self.depth is None)

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""
        return outputs_by(self._lower, net, region)

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return margin lower bounds, ``(B, K)``."""
        return margins_by(self._lower, net, region, y)

    def intermediate(self, net: Network, region: Region) -> Intermediate:
        """Return the bounds of every node this method bases its lines on.

        With LBP or a depth each family of ``best`` has bounds of its own; these are tight's, and
        of a network that reads its pixels through cells they are those of :func:`behind_cells`.
        """
        if not self._from_pixels:
            net, region = behind_cells(net, region)
        return self._known(net, region, self.families[0])[0]

    def _lower(self, net: Network, region: Region, rows: Tensor) -> Tensor:
        """Bound rows over the logits; images that do not fit the budget together apart."""
        if self._from_pixels:
            return self._solve(net, region, rows)  # the first is small, the other split by rows
        size, step = allowance(self.budget, rows.device), len(region)
        net, region = behind_cells(net, region)
        if self.before == "lbp":
            per = numbers_per_pixel(net, self._ends(net)) * torch.Size(net.input_shape).numel()
            step = size // (per * rows.element_size())
        else:
            assert self.depth is not None
            step = int(0.6 * size) // max(1, relaxed.image_bytes(net, self.depth, rows))
        return in_batches(self._solve, net, region, rows, max(1, step))

    def _solve(self, net: Network, region: Region, rows: Tensor) -> Tensor:
        found: Tensor | None = None
        known = self._known(net, region, self.families[0]) if self._from_pixels else None
        for kind in self.families:
            inter, landing = known or self._known(net, region, kind)
            form, constant = backward.substitute(
                net,
                net.output.index,
                Form(rows),
                relaxation=backward.family(inter, kind),
                samples=None,
                stops=self._ends(net),
                landing=landing,
            )
            lower = backward.minimum(form, inter, None) if form is not None else None
            if constant is not None:
                lower = constant if lower is None else lower + constant
            assert lower is not None
            found = lower if found is None else torch.maximum(found, lower)
        assert found is not None
        return found

    def _ends(self, net: Network) -> frozenset[int]:
        """Return the nodes at which rows from the logits land."""
        if self.depth is None:
            return frozenset()
        return relaxed.stops(net, net.output.index, self.depth)

    def _known(
        self, net: Network, region: Region, kind: str
    ) -> tuple[Intermediate, backward.Landing]:
        """Return the bounds of the layers before, and what rows land on."""
        inter = interval.propagate(net, region, budget=self.budget)
        if self.before == "ibp":
            return inter, _on_bounds(inter)
        size = allowance(self.budget, inter.like.device)
        if self.before == "lbp":
            sweep = Sweep(net, region, size, self._ends(net))

            def carried(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
                found = sweep.bounds(known, source, kind)
                at = (pairs[:, 0], pairs[:, 1])
                return Bounds(found.lower.flatten(1)[at], found.upper.flatten(1)[at])

            inter = improve(inter, [carried], everywhere=not self.intersect)
            return inter, lambda node, form: sweep.land(inter, node, form, kind)
        if self.depth is None:
            kinds = self.families
            inter = refine(inter, kinds, size, everywhere=not self.intersect)
            return inter, _on_bounds(inter)
        anchors = relaxed.Anchors(net, self.depth, kind, size)
        inter = improve(inter, [anchors.bound], everywhere=not self.intersect)
        return inter, lambda node, form: anchors.land(inter, node, form, None)


@dataclass(frozen=True)
class Optimised:
    """CROWN with optimised lines (alpha-CROWN).

    Parameters
    ----------
    ascent
        Iterations, step size and its decay, shared slopes or one set per bound.
    every
        Whether the layers before are optimised too, each neuron for itself, or only the
        bounds of the logits; the others are CROWN's.
    budget
        Bytes for coefficients; a quarter of what is free by default.
    pairing
        Constraints on pairs of neurons that the bounds of the logits use besides, chosen for
        each (:mod:`taut.bounds.pairs`); no bound is below the one without.

    """

    ascent: Ascent = Ascent()  # noqa: RUF009 - frozen
    every: bool = True
    budget: int | None = None
    pairing: Pairing | None = None

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""
        return Info(
            "alpha-crown",
            "CROWN with slopes optimised per bound",
            "as crown; lower slopes a in [0, 1] of unstable neurons maximise each bound",
            "iterations x 3 x crown",
            "chunked to a byte budget",
            "Xu et al. 2021, arXiv:2011.13824",
        )

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""
        return outputs_by(self._lower, net, region)

    def margins(self, net: Network, region: Region, y: Tensor, cuts: Cuts | None = None) -> Tensor:
        """Return margin lower bounds, ``(B, K)``, on the part of the region where ``cuts`` hold.

        With cuts this is beta-CROWN: their multipliers are optimised with the slopes.
        """
        return margins_by(partial(self._lower, cuts=cuts), net, region, y)

    def intermediate(self, net: Network, region: Region, cuts: Cuts | None = None) -> Intermediate:
        """Return the bounds of every node this method bases its lines on."""
        with torch.no_grad():
            inter = interval.propagate(net.detached(), region, budget=self.budget)
            if cuts:
                inter = cut(inter, cuts)
            size = allowance(self.budget, inter.like.device)
            inter = refine(inter, (self.ascent.start,), size)
            if not self.every:
                return inter

            def climb(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
                return optimised_pairs(known, source, pairs, self.ascent, size)

            return improve(inter, [climb])

    def _lower(
        self, net: Network, region: Region, rows: Tensor, cuts: Cuts | None = None
    ) -> Tensor:
        inter = self.intermediate(net, region, cuts)
        size = allowance(self.budget, rows.device)
        with torch.no_grad():
            found = optimised_rows(inter, net.output.index, rows, self.ascent, size)
            if self.pairing is None:
                return found
            better = []
            for row in rows.split(1, 1):
                known = paired(inter, row, self.pairing, self.ascent, size)
                better.append(optimised_rows(known, net.output.index, row, self.ascent, size))
            return torch.maximum(found, torch.cat(better, 1))


def _on_bounds(inter: Intermediate) -> backward.Landing:
    """Land on the best known bounds of a node."""

    def land(node: Node, form: Form) -> backward.Landed:
        known = inter.at(node.index)
        box = Interval.between(known.lower, known.upper)
        return None, backward.concretise(form.dense(node.shape).rows, box)

    return land


def margins_by(solve: Solve, net: Network, region: Region, y: Tensor) -> Tensor:
    """Return margin lower bounds ``(B, K)`` by a solver of rows, +inf at the true class."""
    rows = margin_rows(y, net.classes, region.box.lower)
    return pad_true_class(solve(net, region, rows), y)


def outputs_by(solve: Solve, net: Network, region: Region) -> Bounds:
    """Return bounds of the logits ``(B, K)`` by a solver of rows."""
    like = region.box.lower
    eye = torch.eye(net.classes, dtype=like.dtype, device=like.device)
    lower = solve(net, region, torch.cat([eye, -eye]).expand(len(region), -1, -1))
    half = lower.shape[1] // 2
    return Bounds(lower[:, :half], -lower[:, half:])


def in_batches(solve: Solve, net: Network, region: Region, rows: Tensor, step: int) -> Tensor:
    """Bound rows of at most ``step`` images at a time."""
    if step >= len(region):
        return solve(net, region, rows)
    parts = [slice(at, at + step) for at in range(0, len(region), step)]
    return torch.cat([solve(net, region[part], rows[part]) for part in parts])
