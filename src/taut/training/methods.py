"""The table of named training methods, which the command line and the documentation print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from taut.training.bound import CrownIBP
from taut.training.method import GridPoint, Method, Natural, PGDTraining


@dataclass(frozen=True)
class Description:
    """What the table says of one method.

    Parameters
    ----------
    name
        What a recipe calls it.
    title
        Its name in words.
    paper
        Where it comes from.
    axes
        ``region x bound x combination``, or what stands in their place.
    formula
        The loss of one batch.
    cost
        Passes through the network per step, forward and backward counted as one; K classes. A
        pass of CROWN-IBP moves K - 1 rows at once.
    method
        The method with its default fields.

    """

    name: str
    title: str
    paper: str
    axes: str
    formula: str
    cost: str
    method: Method


_DESCRIPTIONS = (
    Description(
        "natural",
        "ordinary training",
        "",
        "no region: the image itself",
        "CE(z(x), y)",
        "1",
        Natural(),
    ),
    Description(
        "fgsm",
        "adversarial training with one step from a random start",
        "Wong et al. 2020, arXiv:2001.03994",
        "full ball x attack x its loss alone",
        "CE(z(x_adv), y)",
        "2.5: one step, one check, one training pass",
        PGDTraining(steps=1, step=1.25),
    ),
    Description(
        "pgd",
        "adversarial training with projected gradient descent",
        "Madry et al. 2018, arXiv:1706.06083",
        "full ball x attack x its loss alone",
        "CE(z(x_adv), y)",
        "steps + 1.5",
        PGDTraining(),
    ),
    Description(
        "ibp",
        "interval bound propagation",
        "Gowal et al. 2018, arXiv:1810.12715",
        "full ball x ibp x mix",
        "kappa CE(z(x), y) + (1 - kappa) CE(-l_IBP, y)",
        "3: clean pass and interval pass (midpoints, radii)",
        GridPoint(),
    ),
    Description(
        "crown-ibp",
        "CROWN-IBP: a backward pass over interval bounds, fading into IBP",
        "Zhang et al. 2020, arXiv:1906.06316",
        "full ball x crown-ibp x mix",
        "kappa CE(z(x), y) + (1 - kappa) CE(-((1 - beta) l_IBP + beta l_CROWN-IBP), y)",
        "3 + (K - 1); 3 once beta is 0",
        GridPoint(bound=CrownIBP()),
    ),
)

METHODS: Mapping[str, Description] = MappingProxyType({d.name: d for d in _DESCRIPTIONS})
"""Training methods by name."""
