"""The rows of results/abscert.md: networks on cells of a pixel grid, and their rivals without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sound:
    """A network trained for its worst case over the whole ball of images.

    ``cells`` are the arguments of ``taut.models.Cells``, empty for a network without cells.
    """

    label: str
    method: str = "ibp"
    cells: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    init: str = "default"
    regularise: Mapping[str, float] = field(default_factory=dict)


TRAINED_AT = {0.2: (0.1, 0.2), 0.4: (0.3, 0.4)}
"""The eps a network is trained at, and those it is evaluated at."""

SHI = {"shi": 0.5, "l1": 1e-6}

SOUND = (
    Sound("no cells, IBP"),
    Sound("2 cells, IBP", cells={"n": 2}),
    Sound("2 cells, SABR over choices", "cells-sabr", {"n": 2}, init="shi", regularise=SHI),
    Sound("3 cells, IBP", cells={"n": 3}),
    Sound("2 cells, CROWN-IBP fused", "crown-ibp-fused", {"n": 2}),
    Sound("no cells, SABR", "sabr", init="shi", regularise=SHI),
    Sound("2 cells, learned edge, IBP", cells={"n": 2, "learn": True}),
    Sound("no cells, CROWN-IBP fused", "crown-ibp-fused"),
)


@dataclass(frozen=True)
class Published:
    """A recipe of the paper, shortened by ``scale``, and what the paper's Table 1 says of it.

    ``eps`` are the paper's radii on [-1, 1]; in pixels of [0, 1] they are half as large.
    ``errors`` are its "verified" errors in percent, one per radius.
    """

    recipe: str
    scale: float
    eps: tuple[float, ...]
    errors: tuple[float, ...]


_GREY = tuple(k / 255 for k in (2, 4, 6, 8, 16))

PUBLISHED = (
    Published("abscert/mnist-0.1-dm-small", 1.0, (0.1, 0.2, 0.3, 0.4), (0.89, 0.94, 1.01, 1.22)),
    Published("abscert/mnist-0.1-dm-medium", 0.5, (0.1, 0.2, 0.3, 0.4), (0.69, 0.70, 0.77, 0.93)),
    Published("abscert/cifar10-2-dm-small", 0.3, _GREY, (25.52, 25.52, 25.52, 25.52, 26.61)),
    Published("abscert/cifar10-2-dm-medium", 0.1, _GREY, (16.40, 16.40, 16.70, 16.93, 17.16)),
)
