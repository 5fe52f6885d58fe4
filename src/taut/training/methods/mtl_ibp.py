"""MTL-IBP training.

As in the published code of all three expressive losses (with CC-IBP and Exp-IBP), batch
normalisation has the statistics of the attacked images, in the bounds, too.
"""

from taut.training.combination import Sum
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "mtl-ibp",
    "MTL-IBP: interval and adversarial loss, added",
    "De Palma et al. 2024, arXiv:2305.13991",
    "full ball x ibp x sum",
    "alpha CE(-l_IBP, y) + (1 - alpha) CE(z(x_adv), y)",
    "steps + 3.5: the attack, its last point, interval pass (midpoints, radii)",
    GridPoint(combination=Sum(), statistics="attacked"),
)
