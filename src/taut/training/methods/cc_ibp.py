"""CC-IBP training; batch normalisation has the statistics of the attacked images."""

from taut.training.combination import ConvexLogits
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "cc-ibp",
    "CC-IBP: margins between an attack and an interval bound",
    "De Palma et al. 2024, arXiv:2305.13991",
    "full ball x ibp x convex-logits",
    "CE(-(alpha l_IBP + (1 - alpha) (z_y - z)(x_adv)), y)",
    "steps + 3.5: the attack, its last point, interval pass (midpoints, radii)",
    GridPoint(combination=ConvexLogits(), statistics="attacked"),
)
