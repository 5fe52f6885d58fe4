r"""Optimised bounding lines (alpha-CROWN): slopes chosen by gradient ascent on the bound itself.

Every activation has two families of sound lines, ``zero`` and ``one``; each mix

.. math:: s = s_0 + \alpha\,(s_1 - s_0), \quad t = t_0 + \alpha\,(t_1 - t_0), \quad
          \alpha \in [0, 1]

of them is sound too, for every neuron and for the lower and the upper line apart. For ReLU
:math:`\alpha` is the slope of the lower line. Each bound is maximised over the mixes it uses by
projected Adam; whatever the iterate, it is a bound, and the best one of each row is kept.
Where split constraints hold besides (:mod:`taut.bounds.cuts`), or constraints on pairs of
neurons (:mod:`taut.bounds.pairs`), their multipliers :math:`\beta, \mu \ge 0` are optimised
along with the mixes.
Source: Xu et al. 2021 (alpha-CROWN); Wang et al. 2021 (beta-CROWN); Zhang et al. 2022
(GCP-CROWN).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form, Window, pick
from taut.bounds.interval import Intermediate
from taut.bounds.rows import chunk_size, unit_rows
from taut.bounds.tie import Facets, tied
from taut.errors import ConfigError
from taut.graph.network import Node
from taut.operators.base import Activation
from taut.operators.forms import Bounds, Lines

_KEPT = 4  # numbers a gradient step holds for each that a walk makes


@dataclass(frozen=True)
class Ascent:
    """How slopes are optimised.

    Parameters
    ----------
    iterations
        Gradient steps; 0 gives the bound of the start.
    rate
        Step size of Adam.
    decay
        What the step size is multiplied by after each step.
    shared
        One set of slopes for all lower bounds of a layer and one for all upper bounds, per
        image, instead of one for each bound.
    start
        Line family the mixes start from.
    multiplier_rate
        Step size of Adam for the multipliers of constraints.

    """

    iterations: int = 20
    rate: float = 0.1
    decay: float = 0.98
    shared: bool = False
    start: str = "adaptive"
    multiplier_rate: float = 0.05


class _Ends(NamedTuple):
    """Both ends of an activation's free lines, and the mixes to start from (None: no freedom)."""

    zero: Lines
    one: Lines
    lower: Tensor | None
    upper: Tensor | None


class Families:
    """The two ends of every activation's free lines on the bounds known, and the start.

    Of the mixes ``begun``, by node and side, only whether there is a freedom is told.
    """

    def __init__(
        self, inter: Intermediate, start: str, begun: Collection[tuple[int, str]] = ()
    ) -> None:
        self.inter, self.start, self.begun = inter, start, begun
        self._made: dict[int, _Ends] = {}

    def at(self, node: Node) -> _Ends:
        """Return the lines of an activation, for the whole batch."""
        if node.index not in self._made:
            assert isinstance(node.operator, Activation)
            bounds, axis = self.inter.at(node.inputs[0]), node.operator.axis
            zero, one = (node.operator.lines(bounds, kind) for kind in ("zero", "one"))
            starts: list[Tensor | None] = []
            first: Lines | None = None
            for side, of in (("lower", _lower), ("upper", _upper)):
                if _agree(of(zero), of(one)):
                    starts.append(None)
                elif (node.index, side) in self.begun:
                    starts.append(of(zero)[0])
                else:
                    first = first or node.operator.lines(bounds, self.start)
                    starts.append(_start(of(zero), of(one), of(first), axis))
            self._made[node.index] = _Ends(zero, one, *starts)
        return self._made[node.index]


Line = tuple[Tensor, Tensor | None]

LOWER_CUT, UPPER_CUT, FACET = "lower cut", "upper cut", "facet"
_MULTIPLIERS = (LOWER_CUT, UPPER_CUT, FACET)

Mixes = dict[tuple[int, str], Tensor]
"""Parameters of a walk: by node and side the shares of ``one``, or multipliers of constraints."""


def _lower(lines: Lines) -> Line:
    return lines.lower_slope, lines.lower_intercept


def _upper(lines: Lines) -> Line:
    return lines.upper_slope, lines.upper_intercept


def _agree(zero: Line, one: Line) -> bool:
    same = zero[1] is one[1] or (
        zero[1] is not None and one[1] is not None and torch.equal(zero[1], one[1])
    )
    return same and torch.equal(zero[0], one[0])


def _start(zero: Line, one: Line, first: Line, axis: int | None) -> Tensor:
    """Return the share of ``one`` that makes the first line."""
    if axis is not None:  # one mix for all that the activation takes together
        return torch.full_like(zero[0].select(axis + 1, 0), 0.5)
    return _mix(first[0], zero[0], one[0])


def _mix(value: Tensor, zero: Tensor, one: Tensor) -> Tensor:
    """Return the share of ``one`` that makes ``value``, 0 where both ends agree."""
    apart = one != zero
    return torch.where(apart, (value - zero) / torch.where(apart, one - zero, 1.0), 0.0).clamp(0, 1)


class Mixed:
    """Lines between two families for the groups of one walk, with their mixes as parameters.

    A :data:`~taut.bounds.backward.Relaxation`. Parameters are made at the first walk: of the
    form's own shape, one set a group, or one set per image and side where ``store`` is given.
    One set a group begins at ``initial`` where that has them.
    """

    def __init__(
        self,
        families: Families,
        store: Mixes | None,
        initial: Mapping[tuple[int, str], Tensor] | None = None,
    ) -> None:
        self.families = families
        self.store = store
        self.initial = initial or {}
        self.own: Mixes = {}
        self._ends: dict[int, tuple[Lines, Lines]] = {}
        self._facets: dict[int, Facets] = {}

    def __call__(self, node: Node, form: Form, samples: Tensor | None) -> Lines:
        """Return the lines of every group at a node."""
        ends = self.families.at(node)
        if node.index not in self._ends:
            self._ends[node.index] = (
                backward.pick_lines(ends.zero, form, samples),
                backward.pick_lines(ends.one, form, samples),
            )
        zero, one = self._ends[node.index]
        assert isinstance(node.operator, Activation)
        axis = node.operator.axis
        lower, upper = _lower(zero), _upper(zero)
        if ends.lower is not None:
            mix = self._mixed(node, "lower", ends.lower, form, samples)
            lower = _between(lower, _lower(one), mix, axis)
        if ends.upper is not None:
            mix = self._mixed(node, "upper", ends.upper, form, samples)
            upper = _between(upper, _upper(one), mix, axis)
        lines, facets = Lines(*lower, *upper), self.families.inter.facets.get(node.index)
        if facets is None or form.window is not None:
            return lines
        mu = self._parameter((node.index, FACET), torch.zeros_like(facets.limit), form, samples)
        if node.index not in self._facets:
            self._facets[node.index] = facets if samples is None else facets[samples]
        return tied(lines, self._facets[node.index].tie(mu))

    def _mixed(
        self, node: Node, side: str, start: Tensor, form: Form, samples: Tensor | None
    ) -> Tensor:
        return self._parameter((node.index, side), start, form, samples)

    def multipliers(
        self, node: Node, form: Form, samples: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return what the cuts of a node add: see :data:`~taut.bounds.backward.Multipliers`."""
        cuts = self.families.inter.cuts.get(node.index)
        if cuts is None:
            return None
        size = form.size if form.window is not None else (0, 0)
        rows = torch.zeros_like(form.rows[:, 0])
        constant: Tensor | None = None
        for side, ends, sign in ((LOWER_CUT, cuts.lower, -1.0), (UPPER_CUT, cuts.upper, 1.0)):
            there = ends.isfinite()
            if not bool(there.any()):
                continue
            beta = self._parameter((node.index, side), torch.zeros_like(ends), form, samples)
            beta = beta * pick(there.to(ends), samples, form.window, size)
            at = pick(torch.where(there, ends, 0.0), samples, form.window, size)
            rows = rows + sign * beta
            share = -sign * (beta * at).flatten(1).sum(1, keepdim=True)
            constant = share if constant is None else constant + share
        return None if constant is None else (rows.unsqueeze(1), constant)

    def _parameter(
        self, key: tuple[int, str], start: Tensor, form: Form, samples: Tensor | None
    ) -> Tensor:
        size = form.size if form.window is not None else (0, 0)
        if self.store is None:
            if key not in self.own:
                own = self.initial.get(key)
                own = pick(start, samples, form.window, size) if own is None else own
                self.own[key] = own.clone().requires_grad_()
            return self.own[key]
        assert samples is not None
        if key not in self.store:  # groups alternate between lower and upper bounds
            self.store[key] = start.repeat_interleave(2, 0).clone().requires_grad_()
        side_of = torch.arange(len(samples), device=samples.device) % 2
        return pick(self.store[key], 2 * samples + side_of, form.window, size)


def _between(zero: Line, one: Line, mix: Tensor, axis: int | None) -> Line:
    share = mix if axis is None else mix.unsqueeze(axis + 1)
    slope = torch.addcmul(zero[0], share.expand_as(zero[0]), one[0] - zero[0])
    if zero[1] is None and one[1] is None:
        return slope, None
    low = torch.zeros_like(mix) if zero[1] is None else zero[1]
    high = torch.zeros_like(mix) if one[1] is None else one[1]
    return slope, torch.addcmul(low, mix, high - low)


def optimised_pairs(
    inter: Intermediate, source: int, pairs: Tensor, ascent: Ascent, budget: int
) -> Bounds:
    """Bound single neurons of a node with optimised lines; see ``rows.bound_pairs``."""
    node = inter.net.nodes[source]
    families = Families(inter, ascent.start)
    step = _step(inter, source, pairs, ascent, budget)
    chunks: list[tuple[Form, Tensor | None]] = []
    for part in pairs.split(step):
        form = unit_rows(node, part[:, 1], inter.like)
        chunks.append((_apart(form), part[:, 0].repeat_interleave(2)))
    found = _climb(inter, source, chunks, families, ascent).view(-1, 2)
    return Bounds(found[:, 0], -found[:, 1])


def optimised_rows(
    inter: Intermediate, source: int, rows: Tensor, ascent: Ascent, budget: int
) -> Tensor:
    """Bound rows ``(B, R, *shape)`` of a node with optimised lines, ``(B, R)``."""
    batch, count = rows.shape[:2]
    families = Families(inter, ascent.start)
    device = rows.device
    each = torch.stack([torch.arange(batch, device=device)] * 2, 1)
    step = 2 * _step(inter, source, each, ascent, budget)
    samples = torch.arange(batch, device=device).repeat_interleave(count)
    flat = rows.flatten(0, 1).unsqueeze(1)
    chunks: list[tuple[Form, Tensor | None]] = [
        (Form(part), which)
        for part, which in zip(flat.split(step), samples.split(step), strict=True)
    ]
    return _climb(inter, source, chunks, families, ascent).view(batch, count)


def _apart(form: Form) -> Form:
    """Return each of a group's two rows as a group of its own."""
    window = form.window
    if window is not None:
        window = Window(
            window.top.repeat_interleave(2),
            window.left.repeat_interleave(2),
            window.rows,
            window.columns,
        )
    return Form(form.rows.flatten(0, 1).unsqueeze(1), window)


def _step(inter: Intermediate, source: int, pairs: Tensor, ascent: Ascent, budget: int) -> int:
    relaxation = backward.family(inter, ascent.start)
    return chunk_size(inter, source, pairs, relaxation, budget // _KEPT, kept=True)


def _climb(
    inter: Intermediate,
    source: int,
    chunks: list[tuple[Form, Tensor | None]],
    families: Families,
    ascent: Ascent,
) -> Tensor:
    """Maximise the bound of every group ``(N, 1, ...)`` of the chunks; return the best."""
    if torch.is_inference_mode_enabled() and ascent.iterations:
        raise ConfigError(
            "optimised lines need gradients, which torch.inference_mode() rules out; call "
            "under torch.no_grad() instead"
        )
    inter = inter.detached()

    def lower(part: tuple[Form, Tensor | None], mixed: Mixed) -> Tensor:
        form, samples = part
        found = backward.lower(
            inter.net,
            source,
            form,
            inter,
            lines=mixed,
            samples=samples,
            multipliers=mixed.multipliers if inter.cuts else None,
        )
        return found.squeeze(1)

    if not ascent.shared:
        best = []
        for part in chunks:
            mixed = Mixed(families, None)
            best += ascend([(part, mixed)], mixed.own, lower, ascent)
        return torch.cat(best)
    store: Mixes = {}
    return torch.cat(
        ascend([(part, Mixed(families, store)) for part in chunks], store, lower, ascent)
    )


def ascend(
    parts: list[tuple[tuple[Form, Tensor | None], Mixed]],
    mixes: Mixes,
    lower: Callable[[tuple[Form, Tensor | None], Mixed], Tensor],
    ascent: Ascent,
    enough: Callable[[list[Tensor]], bool] | None = None,
) -> list[Tensor]:
    """Take the gradient steps; return the best bound ``(N,)`` of every group, part by part.

    ``lower`` bounds a part's groups with its mixes, the parameters in ``mixes``; its last call
    is without gradients and with the last parameters. ``enough`` is shown the best bounds
    so far before each step and may end the ascent.
    """
    with torch.no_grad():
        best = [lower(part, mixed) for part, mixed in parts]
    if ascent.iterations == 0 or not mixes or (enough is not None and enough(best)):
        return best
    slopes = [mix for key, mix in mixes.items() if key[1] not in _MULTIPLIERS]
    multipliers = [mix for key, mix in mixes.items() if key[1] in _MULTIPLIERS]
    adam = torch.optim.Adam(
        [
            {"params": slopes, "lr": ascent.rate},
            {"params": multipliers, "lr": ascent.multiplier_rate},
        ]
    )
    rates = torch.optim.lr_scheduler.ExponentialLR(adam, ascent.decay)
    for _ in range(ascent.iterations):
        adam.zero_grad()
        for place, (part, mixed) in enumerate(parts):
            with torch.enable_grad():
                found = lower(part, mixed)
                if found.requires_grad:  # else nothing on its way bends
                    found.sum().neg().backward()
            best[place] = torch.maximum(best[place], found.detach())
        if enough is not None and enough(best):
            break
        adam.step()
        rates.step()
        with torch.no_grad():
            for mix in slopes:
                mix.clamp_(0, 1)
            for multiplier in multipliers:
                multiplier.clamp_(min=0)
    with torch.no_grad():
        last = [lower(part, mixed) for part, mixed in parts]
    return [torch.maximum(a, b) for a, b in zip(best, last, strict=True)]
