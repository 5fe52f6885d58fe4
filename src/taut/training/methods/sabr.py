"""SABR: training on small adversarial boxes."""

from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint
from taut.training.region import SmallBox

METHOD = Description(
    "sabr",
    "SABR: IBP over a small box around an adversarial point",
    "Müller et al. 2023, arXiv:2210.04871",
    "small box x ibp x robust loss alone",
    "CE(-l_IBP over [x' - tau, x' + tau], y)",
    "steps + 3.5: attack, clean pass for the statistics, interval pass",
    GridPoint(region=SmallBox(), combination=Mix(0.0, 0.0)),
)
