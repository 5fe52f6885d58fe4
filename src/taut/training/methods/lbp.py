"""Training with LBP's linear bounds, and with CROWN over them."""

from taut.training.bound import LBP, CrownLBP
from taut.training.methods.base import Description, GridPoint

PAPER = "Lyu et al. 2021, arXiv:2104.00447"

METHOD = Description(
    "lbp",
    "LBP: linear bounds carried forward",
    PAPER,
    "full ball x lbp x mix",
    "kappa CE(z(x), y) + (1 - kappa) CE(-l_LBP, y)",
    "3 + 2 for each input pixel",
    GridPoint(bound=LBP()),
)
CROWN_LBP = Description(
    "crown-lbp",
    "CROWN-LBP: a backward pass over LBP's bounds of the layers before",
    PAPER,
    "full ball x crown-lbp x mix",
    "kappa CE(z(x), y) + (1 - kappa) CE(-l_CROWN-LBP, y)",
    "3 + 2 for each input pixel + (K - 1)",
    GridPoint(bound=CrownLBP()),
)
