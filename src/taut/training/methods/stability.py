"""Adversarial training with a penalty on ReLUs that can change sign."""

from taut.training.attack import TrainingAttack
from taut.training.combination import Penalty
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "rs-pgd",
    "adversarial training with the ReLU stability loss",
    "Xiao et al. 2019, arXiv:1809.03008",
    "full ball x ibp x penalty",
    "CE(z(x_adv), y) - weight sum tanh(1 + u l)",
    "steps + 3.5: the attack, its last point, interval pass (midpoints, radii)",
    GridPoint(combination=Penalty(attack=TrainingAttack(steps=8, step=0.3))),
)
