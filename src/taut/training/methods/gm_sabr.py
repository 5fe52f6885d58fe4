"""GM on SABR, a combination that has not been published."""

from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint
from taut.training.region import Radii, SmallBox

METHOD = Description(
    "gm-sabr",
    "GM on SABR: small boxes in balls of several radii, one attack for all of them",
    "",
    "small box in radii x ibp x robust loss alone",
    "sum_i c_i CE(-l_IBP over the small box in the ball of i eps / N, y), c_i ~ 1 / sqrt(i)",
    "steps + 1.5 + 2 N",
    GridPoint(region=SmallBox(inner=Radii()), combination=Mix(0.0, 0.0)),
)
