"""Exp-IBP training; batch normalisation has the statistics of the attacked images."""

from taut.training.combination import Geometric
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "exp-ibp",
    "Exp-IBP: interval and adversarial loss, multiplied",
    "De Palma et al. 2024, arXiv:2305.13991",
    "full ball x ibp x geometric",
    "CE(-l_IBP, y)^alpha CE(z(x_adv), y)^(1 - alpha)",
    "steps + 3.5: the attack, its last point, interval pass (midpoints, radii)",
    GridPoint(combination=Geometric(), statistics="attacked"),
)
