"""AdvIBP training, over interval bounds and over CROWN-IBP."""

from taut.training.bound import CrownIBP
from taut.training.combination import Bisector
from taut.training.methods.base import Description, GridPoint

_PAPER = "Fan and Li 2021, arXiv:2008.06081"

METHOD = Description(
    "adv-ibp",
    "AdvIBP: the bisector of adversarial and interval gradient",
    _PAPER,
    "full ball x ibp x bisector",
    "kappa_adv CE(z(x_adv), y) + kappa_rob L + kappa_sq L^2, L = CE(-l_IBP, y)",
    "steps + 3.5: the attack, its last point, interval pass; + 1 where the gradients disagree",
    GridPoint(combination=Bisector()),
)
CROWN = Description(
    "adv-crown-ibp",
    "AdvCROWN-IBP: the bisector of adversarial and CROWN-IBP gradient",
    _PAPER,
    "full ball x crown-ibp x bisector",
    "kappa_adv CE(z(x_adv), y) + kappa_rob L + kappa_sq L^2, L of CROWN-IBP",
    "steps + 3.5 + (K - 1); that of adv-ibp once beta is 0",
    GridPoint(bound=CrownIBP(), combination=Bisector()),
)
