"""The table of named training methods, which the command line and the documentation print."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from taut.training.methods import crown_ibp, ibp, natural, pgd
from taut.training.methods.base import Description

_DESCRIPTIONS: tuple[Description, ...] = (
    natural.METHOD,
    pgd.FGSM,
    pgd.PGD,
    ibp.METHOD,
    crown_ibp.METHOD,
)

METHODS: Mapping[str, Description] = MappingProxyType({d.name: d for d in _DESCRIPTIONS})
"""Training methods by name."""
