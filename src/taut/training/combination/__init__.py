"""Third axis of the training grid: how the losses of a step become one update."""

from taut.training.combination.base import Attacked, Combination, Robust, Statistics, Terms
from taut.training.combination.bisector import Bisector
from taut.training.combination.convex_logits import ConvexLogits
from taut.training.combination.geometric import Geometric
from taut.training.combination.mix import Mix
from taut.training.combination.penalty import Penalty
from taut.training.combination.sum import Sum
from taut.training.combination.trades import Trades

COMBINATIONS: dict[str, type[Combination]] = {
    "mix": Mix,
    "sum": Sum,
    "convex-logits": ConvexLogits,
    "geometric": Geometric,
    "trades": Trades,
    "bisector": Bisector,
    "penalty": Penalty,
}
"""Combinations by the name a recipe calls them."""

__all__ = [
    "COMBINATIONS",
    "Attacked",
    "Bisector",
    "Combination",
    "ConvexLogits",
    "Geometric",
    "Mix",
    "Penalty",
    "Robust",
    "Statistics",
    "Sum",
    "Terms",
    "Trades",
]
