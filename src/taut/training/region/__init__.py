"""First axis of the training grid: which input sets are bounded for an image."""

from taut.training.region.base import Batch, Region, WeightedBox
from taut.training.region.cell_choices import CellChoices
from taut.training.region.full_ball import FullBall
from taut.training.region.radii import Radii
from taut.training.region.small_box import SmallBox

REGIONS: dict[str, type[Region]] = {
    "cell-choices": CellChoices,
    "full-ball": FullBall,
    "radii": Radii,
    "small-box": SmallBox,
}
"""Regions by the name a recipe calls them."""

__all__ = [
    "REGIONS",
    "Batch",
    "CellChoices",
    "FullBall",
    "Radii",
    "Region",
    "SmallBox",
    "WeightedBox",
]
