"""Second axis of the training grid: how the margins over an input set are bounded."""

from taut.training.bound.base import Bound, Bounded
from taut.training.bound.crown_ibp import CrownIBP
from taut.training.bound.ibp import IBP

BOUNDS: dict[str, type[Bound]] = {"ibp": IBP, "crown-ibp": CrownIBP}
"""Bounds by the name a recipe calls them."""

__all__ = ["BOUNDS", "IBP", "Bound", "Bounded", "CrownIBP"]
