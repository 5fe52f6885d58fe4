"""Training: one loop, methods as points of a grid, schedules and recipes."""

from taut.training.attack import TrainingAttack
from taut.training.bound import BOUNDS, IBP, Bound, Bounded, CrownIBP
from taut.training.choose import choose
from taut.training.combination import COMBINATIONS, Combination, Mix, Terms
from taut.training.loop import FitResult, fit
from taut.training.losses import robust_cross_entropy
from taut.training.meter import DivergenceError
from taut.training.methods import (
    METHODS,
    Description,
    GridPoint,
    Method,
    Natural,
    PGDTraining,
)
from taut.training.progress import Losses, Progress
from taut.training.rates import RateSchedule
from taut.training.recipe import Recipe, apply_overrides, from_dict, load, loads, names
from taut.training.region import REGIONS, Batch, FullBall, Region, WeightedBox
from taut.training.run import StepInfo
from taut.training.schedule import EpsRamp
from taut.training.settings import Settings, Train
from taut.training.sink import Sink

__all__ = [
    "BOUNDS",
    "COMBINATIONS",
    "IBP",
    "METHODS",
    "REGIONS",
    "Batch",
    "Bound",
    "Bounded",
    "Combination",
    "CrownIBP",
    "Description",
    "DivergenceError",
    "EpsRamp",
    "FitResult",
    "FullBall",
    "GridPoint",
    "Losses",
    "Method",
    "Mix",
    "Natural",
    "PGDTraining",
    "Progress",
    "RateSchedule",
    "Recipe",
    "Region",
    "Settings",
    "Sink",
    "StepInfo",
    "Terms",
    "Train",
    "TrainingAttack",
    "WeightedBox",
    "apply_overrides",
    "choose",
    "fit",
    "from_dict",
    "load",
    "loads",
    "names",
    "robust_cross_entropy",
]
