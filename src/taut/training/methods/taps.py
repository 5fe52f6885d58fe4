"""TAPS and STAPS: intervals through the first layers, attacks through the last."""

from taut.training.bound import TAPS
from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint
from taut.training.region import SmallBox

PAPER = "Mao et al. 2023, arXiv:2305.04574"
COST = "3 + (steps + 2.5) (K - 1) through the layers behind the cut; 3 while eps ramps"

METHOD = Description(
    "taps",
    "TAPS: attacks in the box that IBP gives at a layer inside",
    PAPER,
    "full ball x taps x robust loss alone",
    "CE(-l_TAPS, y) CE(-l_IBP, y), the first factor's gradient weighing 5; CE(-l_IBP, y) in the "
    "ramp",
    COST,
    GridPoint(bound=TAPS(), combination=Mix(0.0, 0.0)),
)
STAPS = Description(
    "staps",
    "STAPS: TAPS over SABR's small box",
    PAPER,
    "small box x taps x robust loss alone",
    "as taps, over [x' - tau, x' + tau]; as sabr in the ramp",
    f"steps + 0.5 of SABR's attack, and {COST}",
    GridPoint(region=SmallBox(), bound=TAPS(), combination=Mix(0.0, 0.0)),
)
