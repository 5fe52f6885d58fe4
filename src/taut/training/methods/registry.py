"""The table of named training methods, which the command line and the documentation print."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from taut.training.methods import (
    adv_ibp,
    adv_sabr,
    cc_ibp,
    cells_sabr,
    coap,
    crown_ibp,
    diffai,
    exp_ibp,
    fused,
    gm,
    gm_sabr,
    ibp,
    ibp_r,
    ibp_shi,
    lbp,
    mtl_ibp,
    natural,
    pgd,
    ramp_sabr,
    sabr,
    stability,
    taps,
    trades,
)
from taut.training.methods.base import Description

_DESCRIPTIONS: tuple[Description, ...] = (
    natural.METHOD,
    pgd.FGSM,
    pgd.PGD,
    trades.METHOD,
    stability.METHOD,
    ibp.METHOD,
    ibp_shi.METHOD,
    crown_ibp.METHOD,
    fused.METHOD,
    lbp.METHOD,
    lbp.CROWN_LBP,
    coap.METHOD,
    diffai.METHOD,
    gm.GM_IBP,
    gm.GM_CROWN_IBP,
    sabr.METHOD,
    gm_sabr.METHOD,
    ramp_sabr.METHOD,
    cells_sabr.METHOD,
    taps.METHOD,
    taps.STAPS,
    ibp_r.METHOD,
    mtl_ibp.METHOD,
    cc_ibp.METHOD,
    exp_ibp.METHOD,
    adv_ibp.METHOD,
    adv_ibp.CROWN,
    adv_sabr.METHOD,
)

METHODS: Mapping[str, Description] = MappingProxyType({d.name: d for d in _DESCRIPTIONS})
"""Training methods by name."""
