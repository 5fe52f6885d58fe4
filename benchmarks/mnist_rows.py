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

SHORT = Amount(5_000, 20, 1)
"""Everything at the smaller radius."""

GRIDDED = Amount(5_000, 20, 1)
"""Training at eps 0.5 with five radii of CROWN-IBP costs twenty times as much as IBP."""

FEW = Amount(500, 10, 1)
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
    Row("IBP", "ibp", published={0.3: "5.06 / 10.42 / 11.77 (a)"}),
    Row(
        "IBP, Shi",
        "ibp-shi",
        init="shi",
        regularise={"shi": 0.5},
        published={0.1: "1.16 / - / 2.05 (b)", 0.3: "2.33 / - / 6.90 (b)"},
    ),
    Row(
        "CROWN-IBP, beta 1 to 0",
        "crown-ibp",
        published={0.1: "1.67 / 3.09 / 3.44", 0.3: "3.55 / 8.50 / 9.40 (c)"},
    ),
    Row("CROWN-IBP, beta 1", "crown-ibp", {"beta_end": 1.0}),
    Row("CROWN-IBP, fused", "crown-ibp-fused"),
    Row("GM-IBP, N = 5", "gm-ibp", {"count": 5}),
    Row(
        "IBP, LeakyReLU",
        "ibp",
        activation="leaky-relu",
        published={0.3: "9.59 / 19.34 / 19.55 (a)"},
    ),
    Row(
        "IBP, ParamRamp",
        "ibp",
        activation="param-ramp",
        schedule=RAMP,
        published={0.3: "4.08 / 7.16 / 9.10 (a)"},
    ),
    Row(
        "CROWN-IBP, ParamRamp",
        "crown-ibp",
        activation="param-ramp",
        schedule=RAMP,
        published={0.3: "3.95 / 7.65 / 9.40 (a)"},
    ),
    Row(
        "SABR",
        "sabr",
        init="shi",
        regularise={"shi": 0.5, "l1": 1e-6},
        published={0.1: "0.77 / - / 1.78 (b)", 0.3: "1.25 / - / 6.60 (b)"},
    ),
    Row(
        "AdvIBP",
        "adv-ibp",
        published={0.1: "1.63 / 2.70 / 3.69", 0.3: "4.15 / 6.83 / 10.80 (c)"},
    ),
    Row(
        "AdvCROWN-IBP",
        "adv-crown-ibp",
        published={0.1: "1.52 / 2.39 / 3.19", 0.3: "3.22 / 5.42 / 9.03 (c)"},
    ),
    Row("MTL-IBP", "mtl-ibp", init="shi", regularise={"shi": 0.5, "l1": 1e-6}),
    Row("CC-IBP", "cc-ibp", init="shi", regularise={"shi": 0.5, "l1": 3e-6}),
    Row("Exp-IBP", "exp-ibp", init="shi", regularise={"shi": 0.5, "l1": 1e-6}),
    Row("TAPS", "taps", init="shi", regularise={"shi": 0.5}),
    Row("STAPS", "staps", init="shi", regularise={"shi": 0.5, "l1": 1e-5}),
    Row("RS-PGD", "rs-pgd"),
    Row("IBP-R", "ibp-r"),
    Row(
        "GM-SABR",
        "gm-sabr",
        {"inner": {"name": "radii", "count": 5}},
        init="shi",
        regularise={"shi": 0.5},
    ),
    Row("AdvSABR", "adv-sabr", init="shi", regularise={"shi": 0.5}),
    Row("ParamRamp + SABR", "ramp-sabr", activation="param-ramp", schedule=RAMP),
)

DEAR = (
    Row("IBP", "ibp"),
    Row("COAP", "coap"),
    Row("DiffAI", "diffai"),
)
"""Batches of these have 16 digits. LBP takes about a second for each, and is left out."""
