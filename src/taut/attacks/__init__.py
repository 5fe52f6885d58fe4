"""Gradient attacks: they look for a point of a box that the model misclassifies.

>>> import torch
>>> from taut.attacks import PGD
>>> from taut.region import Box
>>> x, y = torch.rand(2, 3), torch.tensor([0, 1])
>>> found = PGD(steps=10)(torch.nn.Linear(3, 2), x, y, Box.around(x, 0.1))
>>> found.point.shape, bool(Box.around(x, 0.1).contains(found.point).all())
(torch.Size([2, 3]), True)
"""

from collections.abc import Mapping
from types import MappingProxyType

from taut.attacks.fgsm import FGSM
from taut.attacks.flips import Flips
from taut.attacks.loop import Attack, Attacked
from taut.attacks.losses import margin
from taut.attacks.mode import evaluating
from taut.attacks.pgd import PGD
from taut.attacks.starts import image_seeds

ATTACKS: Mapping[str, type[Attack]] = MappingProxyType({"fgsm": FGSM, "flips": Flips, "pgd": PGD})
"""The attacks by name, for the command line and recipes."""

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "Attacked",
    "Flips",
    "evaluating",
    "image_seeds",
    "margin",
]
