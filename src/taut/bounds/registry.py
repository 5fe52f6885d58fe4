"""The named points of the bounding grid; the command line and the documentation print it."""

from __future__ import annotations

from dataclasses import replace

from taut.bounds.methods import IBP, Backward, BoundMethod, Info, Optimised
from taut.bounds.zonotope import Zonotope
from taut.errors import ConfigError


def describe(before: str, depth: int | None, lines: str) -> Info:
    """Return what the documentation says of a point of backward substitution."""
    lyu = "Lyu et al. 2021, arXiv:2104.00447"
    if before == "lbp" and depth == 1:
        return Info(
            "lbp",
            "linear bounds carried forward (LBP)",
            "WL' = W+ sL WL + W- sU WU, WU' = W+ sU WU + W- sL WL",
            "2 forward passes for each input pixel, by W and |W|",
            "O(pixels x widest layer), in pieces to a byte budget",
            lyu,
        )
    if before == "lbp":
        return Info(
            "crown-lbp" if depth is None else f"crown-lbp-{depth}",
            "one CROWN pass over LBP's intermediate bounds",
            "as crown-ibp, with bounds of the layers before by lbp",
            "LBP + (K - 1) backward passes",
            "as lbp",
            lyu,
        )
    if before == "ibp":
        return Info(
            "crown-ibp" if depth is None else f"crown-ibp-{depth}",
            "one CROWN pass over IBP's intermediate bounds",
            "a <- a+ sL + a- sU through activations, a <- a W through layers",
            "IBP + (K - 1) backward passes (twice with lines=best)",
            "O(K x widest layer)",
            "Zhang et al. 2020, arXiv:1906.06316",
        )
    if depth is None and lines == "adaptive":
        return Info(
            "deeppoly",
            "CROWN with lower slope 1 where u > -l, else 0 (DeepPoly)",
            "as crown",
            "one backward pass for each unstable neuron",
            "chunked to a byte budget",
            "Singh et al. 2019, POPL; Zhang et al. 2018, arXiv:1811.00866",
        )
    if depth is None:
        return Info(
            "crown",
            "CROWN: substitution from every layer whose neurons bend",
            "as crown-ibp, for every unstable neuron of every layer first",
            "one backward pass for each unstable neuron",
            "chunked to a byte budget",
            "Zhang et al. 2018, arXiv:1811.00866",
        )
    return Info(
        f"relaxed-crown-{depth}",
        f"substitution through {depth} activations onto linear bounds",
        "A z <= A+ (WU x + bU) + A- (WL x + bL) after v activations",
        "v backward passes for each neuron",
        "O(pixels x v layers); rows chunked to a byte budget",
        lyu,
    )


_POINTS: dict[str, BoundMethod] = {
    "ibp": IBP(),
    "crown-ibp": Backward("ibp"),
    "lbp": Backward("lbp", depth=1),
    "crown-lbp": Backward("lbp"),
    "relaxed-crown-2": Backward("crown", depth=2),
    "crown": Backward("crown"),
    "deeppoly": Backward("crown", lines="adaptive"),
    "deepz": Zonotope(),
    "hybrid-zonotope": Zonotope(hybrid=True),
    "alpha-crown": Optimised(),
}

METHODS: dict[str, BoundMethod] = dict(_POINTS)
"""Every bounding method by name."""


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
