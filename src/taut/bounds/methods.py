"""The named points of the bounding grid.

A method is a frozen description of what to compute; its calls are pure functions
of a network and a region. ``METHODS`` is the table that the command line and the
documentation print.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from taut.bounds import backward, interval
from taut.bounds.refine import refine
from taut.errors import ConfigError
from taut.graph.network import Network
from taut.operators.forms import LINES, Bounds
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
        inter = interval.propagate(net, region, keep_all=False)
        rows = _identity_rows(net, inter)
        return _two_sided(backward.lower(net, net.output.index, rows, inter, lines=None))

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return elided IBP margins, ``(B, K)``."""
        return interval.margins(net, interval.propagate(net, region, keep_all=False), y)


@dataclass(frozen=True)
class Backward:
    """Backward substitution to the input: CROWN-IBP and CROWN.

    Parameters
    ----------
    before
        How the activations' inputs are bounded: ``ibp``, or ``crown`` for substitution
        from every layer.
    lines
        ``constant``, ``tight``, ``adaptive``, or ``best``: tight and adaptive both, the
        better one per margin (and per neuron with ``before="crown"``).
    budget
        Bytes for the coefficients of one chunk of rows; a quarter of what is free by default.

    """

    before: str = "ibp"
    lines: str = "best"
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.before not in ("ibp", "crown"):
            raise ConfigError(f"before must be ibp or crown; got {self.before!r}")
        if self.lines not in (*LINES, "best"):
            raise ConfigError(f"lines must be one of {', '.join(LINES)}, best; got {self.lines!r}")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"budget must be a positive number of bytes; got {self.budget}")

    @property
    def info(self) -> Info:
        """Name, formula, cost, memory and paper."""
        if self.before == "ibp":
            return Info(
                "crown-ibp",
                "one CROWN pass over IBP's intermediate bounds",
                "a <- a+ sL + a- sU through activations, a <- a W through layers",
                "IBP + (K - 1) backward passes (twice with lines=best)",
                "O(K x widest layer)",
                "Zhang et al. 2020, arXiv:1906.06316",
            )
        return Info(
            "crown",
            "CROWN: substitution from every layer whose neurons bend",
            "as crown-ibp, for every unstable neuron of every layer first",
            "one backward pass for each unstable neuron",
            "chunked to a byte budget",
            "Zhang et al. 2018, arXiv:1811.00866",
        )

    def _families(self) -> tuple[str, ...]:
        return ("tight", "adaptive") if self.lines == "best" else (self.lines,)

    def intermediate(self, net: Network, region: Region) -> interval.Intermediate:
        """Return the bounds of every node this method bases its lines on."""
        inter = interval.propagate(net, region)
        return inter if self.before == "ibp" else refine(inter, self._families(), self.budget)

    def outputs(self, net: Network, region: Region) -> Bounds:
        """Return bounds of the logits, ``(B, K)`` each."""
        inter = self.intermediate(net, region)
        rows = _identity_rows(net, inter)
        each = [
            _two_sided(backward.lower(net, net.output.index, rows, inter, lines=kind))
            for kind in self._families()
        ]
        found = each[0]
        for other in each[1:]:
            found = found.intersect(other)
        return found

    def margins(self, net: Network, region: Region, y: Tensor) -> Tensor:
        """Return margin lower bounds, ``(B, K)``."""
        inter = self.intermediate(net, region)
        found = [backward.margins(net, inter, y, kind) for kind in self._families()]
        return found[0] if len(found) == 1 else torch.maximum(found[0], found[1])


def _identity_rows(net: Network, inter: interval.Intermediate) -> Tensor:
    """Return rows ``e_k`` and ``-e_k`` for every logit, ``(B, 2 K, K)``."""
    like = inter.like
    eye = torch.eye(net.classes, dtype=like.dtype, device=like.device)
    return torch.cat([eye, -eye]).expand(len(like), -1, -1)


def _two_sided(lower: Tensor) -> Bounds:
    half = lower.shape[1] // 2
    return Bounds(lower[:, :half], -lower[:, half:])


METHODS: dict[str, BoundMethod] = {
    method.info.name: method for method in (IBP(), Backward(), Backward(before="crown"))
}
"""Every bounding method by name, cheapest first."""


def method_named(name: str, lines: str | None = None) -> BoundMethod:
    """Return the method of that name, with another line family where one is asked for."""
    if name not in METHODS:
        raise ConfigError(f"unknown bounding method {name!r}; known: {', '.join(METHODS)}")
    method = METHODS[name]
    if lines is None:
        return method
    if not isinstance(method, Backward):
        raise ConfigError(f"{name} has no lines to choose; leave out lines={lines!r}")
    return replace(method, lines=lines)
