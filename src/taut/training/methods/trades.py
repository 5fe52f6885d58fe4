"""TRADES training."""

from taut.training.combination import Trades
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "trades",
    "TRADES: natural loss and the divergence an attack can cause",
    "Zhang et al. 2019, arXiv:1901.08573",
    "full ball x attack x trades",
    "CE(z(x), y) + weight KL(p(x) || p(x_adv))",
    "steps + 3: a pass for the clean probabilities, the attack, clean and attacked pass",
    GridPoint(combination=Trades()),
)
