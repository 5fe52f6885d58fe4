"""The rows of results/mnist-dm-small.md: what is trained, on how much, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Amount:
    """How many training digits, epochs and seeds a row gets."""

    digits: int
    epochs: int
    seeds: int


FULL = Amount(55_000, 10, 3)
"""The five papers' methods and their baselines."""

PART = Amount(10_000, 20, 1)
"""Everything, once, for the comparison of all methods."""

GRIDDED = Amount(5_000, 20, 1)
"""Training at eps 0.5 with five radii of CROWN-IBP costs twenty times as much as IBP."""

FEW = Amount(1_000, 20, 1)
"""Methods whose steps cost hundreds of plain ones; IBP beside them on as much."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with the fields it differs in, and how it is trained.

    ``published`` is the nearest published setting: natural / PGD / verified error in percent.
    """

    label: str
    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "relu"
    init: str = "default"
    regularise: Mapping[str, float] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[float, str] = field(default_factory=dict)
    certified: bool = True


ROBUST_ONLY = {"kappa_start": 0.0, "kappa_end": 0.0}
RAMP = {"eta_kind": "linear", "r_init": "mean", "eta": 0.01, "eta_end": 0.0}

ROWS: tuple[Row, ...] = (
    Row("natural", "natural", certified=False),
    Row("FGSM", "fgsm", certified=False),
    Row("PGD", "pgd", certified=False),
    Row("TRADES", "trades", certified=False),
    Row("IBP", "ibp"),
    Row("IBP, Shi", "ibp-shi", init="shi", regularise={"shi": 0.5}),
    Row("CROWN-IBP, beta 1 to 0", "crown-ibp"),
    Row("CROWN-IBP, beta 1", "crown-ibp", {"beta_end": 1.0}),
    Row("CROWN-IBP, fused", "crown-ibp-fused"),
    Row("GM-IBP, N = 5", "gm-ibp", {"count": 5}),
    Row("IBP, LeakyReLU", "ibp", activation="leaky-relu"),
    Row("IBP, ParamRamp", "ibp", activation="param-ramp", schedule=RAMP),
    Row("CROWN-IBP, ParamRamp", "crown-ibp", activation="param-ramp", schedule=RAMP),
    Row("SABR", "sabr", init="shi", regularise={"shi": 0.5, "l1": 1e-6}),
    Row("AdvIBP", "adv-ibp"),
    Row("AdvCROWN-IBP", "adv-crown-ibp"),
    Row("MTL-IBP", "mtl-ibp", init="shi", regularise={"shi": 0.5, "l1": 1e-6}),
    Row("CC-IBP", "cc-ibp", init="shi", regularise={"shi": 0.5, "l1": 3e-6}),
    Row("Exp-IBP", "exp-ibp", init="shi", regularise={"shi": 0.5, "l1": 1e-6}),
    Row("TAPS", "taps", init="shi", regularise={"shi": 0.5}),
    Row("STAPS", "staps", init="shi", regularise={"shi": 0.5, "l1": 1e-5}),
    Row("RS-PGD", "rs-pgd"),
    Row("IBP-R", "ibp-r"),
    Row("GM-SABR", "gm-sabr", {"count": 5}, init="shi", regularise={"shi": 0.5}),
    Row("AdvSABR", "adv-sabr", init="shi", regularise={"shi": 0.5}),
    Row("ParamRamp + SABR", "ramp-sabr", activation="param-ramp", schedule=RAMP),
)

DEAR = (
    Row("IBP", "ibp"),
    Row("COAP", "coap"),
    Row("DiffAI", "diffai"),
    Row("LBP", "lbp"),
)
"""Batches of these have 16 digits."""
