"""CROWN-IBP training whose cost does not grow with the number of classes."""

from taut.training.bound import CrownIBP
from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "crown-ibp-fused",
    "CROWN-IBP with loss fusion: one row bounds the loss itself",
    "Xu et al. 2020, arXiv:2002.12920",
    "full ball x crown-ibp (fused) x robust loss alone",
    "log(beta e_CROWN-IBP + (1 - beta) e_IBP), e >= sum_j exp(z_j - z_y)",
    "5; 3 once beta is 0",
    GridPoint(bound=CrownIBP(fused=True), combination=Mix(0.0, 0.0)),
)
