"""Third axis of the training grid: how the losses of a step become one update."""

from taut.training.combination.base import Attacked, Combination, Robust, Statistics, Terms
from taut.training.combination.mix import Mix

COMBINATIONS: dict[str, type[Combination]] = {"mix": Mix}
"""Combinations by the name a recipe calls them."""

__all__ = [
    "COMBINATIONS",
    "Attacked",
    "Combination",
    "Mix",
    "Robust",
    "Statistics",
    "Terms",
]
