"""CROWN-IBP training."""

from taut.training.bound import CrownIBP
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "crown-ibp",
    "CROWN-IBP: a backward pass over interval bounds, fading into IBP",
    "Zhang et al. 2020, arXiv:1906.06316",
    "full ball x crown-ibp x mix",
    "kappa CE(z(x), y) + (1 - kappa) CE(-((1 - beta) l_IBP + beta l_CROWN-IBP), y)",
    "3 + (K - 1); 3 once beta is 0",
    GridPoint(bound=CrownIBP()),
)
