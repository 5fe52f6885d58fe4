"""Second axis of the training grid: how the margins over an input set are bounded."""

from taut.training.bound.base import Bound, Bounded
from taut.training.bound.crown_ibp import CrownIBP
from taut.training.bound.ibp import IBP
from taut.training.bound.linear import CROWN, LBP, CrownLBP, Zonotope
from taut.training.bound.taps import TAPS

BOUNDS: dict[str, type[Bound]] = {
    "ibp": IBP,
    "crown-ibp": CrownIBP,
    "lbp": LBP,
    "crown-lbp": CrownLBP,
    "crown": CROWN,
    "zonotope": Zonotope,
    "taps": TAPS,
}
"""Bounds by the name a recipe calls them."""

__all__ = [
    "BOUNDS",
    "CROWN",
    "IBP",
    "LBP",
    "TAPS",
    "Bound",
    "Bounded",
    "CrownIBP",
    "CrownLBP",
    "Zonotope",
]
