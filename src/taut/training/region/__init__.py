"""First axis of the training grid: which input sets are bounded for an image."""

from taut.training.region.base import Batch, Region, WeightedBox
from taut.training.region.full_ball import FullBall

REGIONS: dict[str, type[Region]] = {"full-ball": FullBall}
"""Regions by the name a recipe calls them."""

__all__ = ["REGIONS", "Batch", "FullBall", "Region", "WeightedBox"]
