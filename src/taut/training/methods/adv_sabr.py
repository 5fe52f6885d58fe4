"""Small boxes in the place of the ball of AdvIBP."""

from taut.training.combination import Bisector
from taut.training.methods.base import Description, GridPoint
from taut.training.region.small_box import SmallBox

METHOD = Description(
    "adv-sabr",
    "AdvIBP on small boxes: the bisector of adversarial and small-box gradient",
    "",
    "small box x ibp x bisector",
    "kappa_adv CE(z(x_adv), y) + kappa_rob L + kappa_sq L^2, L = CE(-l_IBP, y) on the small box",
    "that of adv-ibp, and the steps of the small box's attack",
    GridPoint(region=SmallBox(), combination=Bisector()),
)
