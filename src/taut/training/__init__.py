"""Training: one loop, methods as points of a grid, schedules and recipes."""

from taut.training.activation import ActivationSchedule
from taut.training.attack import TrainingAttack
from taut.training.bound import (
    BOUNDS,
    CROWN,
    IBP,
    LBP,
    TAPS,
    Bound,
    Bounded,
    CrownIBP,
    CrownLBP,
    Zonotope,
)
from taut.training.choose import choose
from taut.training.combination import (
    COMBINATIONS,
    Bisector,
    Combination,
    ConvexLogits,
    Geometric,
    Mix,
    Penalty,
    Sum,
    Terms,
    Trades,
)
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
from taut.training.region import (
    REGIONS,
    Batch,
    CellChoices,
    FullBall,
    Radii,
    Region,
    SmallBox,
    WeightedBox,
)
from taut.training.regularise import Regularisers
from taut.training.run import StepInfo
from taut.training.schedule import EpsRamp
from taut.training.settings import Settings, Train
from taut.training.sink import Sink

__all__ = [
    "BOUNDS",
    "COMBINATIONS",
    "CROWN",
    "IBP",
    "LBP",
    "METHODS",
    "REGIONS",
    "TAPS",
    "ActivationSchedule",
    "Batch",
    "Bisector",
    "Bound",
    "Bounded",
    "CellChoices",
    "Combination",
    "ConvexLogits",
    "CrownIBP",
    "CrownLBP",
    "Description",
    "DivergenceError",
    "EpsRamp",
    "FitResult",
    "FullBall",
    "Geometric",
    "GridPoint",
    "Losses",
    "Method",
    "Mix",
    "Natural",
    "PGDTraining",
    "Penalty",
    "Progress",
    "Radii",
    "RateSchedule",
    "Recipe",
    "Region",
    "Regularisers",
    "Settings",
    "Sink",
    "SmallBox",
    "StepInfo",
    "Sum",
    "Terms",
    "Trades",
    "Train",
    "TrainingAttack",
    "WeightedBox",
    "Zonotope",
    "apply_overrides",
    "choose",
    "fit",
    "from_dict",
    "load",
    "loads",
    "names",
    "robust_cross_entropy",
]
