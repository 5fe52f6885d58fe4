"""Training methods: one file for each, and the table of their names."""

from taut.training.methods.base import Description, GridPoint, Method
from taut.training.methods.natural import Natural
from taut.training.methods.pgd import PGDTraining
from taut.training.methods.registry import METHODS

__all__ = ["METHODS", "Description", "GridPoint", "Method", "Natural", "PGDTraining"]
