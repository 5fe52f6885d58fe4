"""Bounds of a network over a region: the methods of the bounding grid."""

from taut.bounds import backward, interval
from taut.bounds.budget import BudgetError
from taut.bounds.fused import fused_cross_entropy
from taut.bounds.interval import Intermediate, propagate
from taut.bounds.methods import IBP, Backward, BoundMethod, Optimised
from taut.bounds.optimised import Ascent
from taut.bounds.refine import refine
from taut.bounds.registry import METHODS, method_named
from taut.bounds.zonotope import Zonotope
from taut.operators.forms import Bounds

__all__ = [
    "IBP",
    "METHODS",
    "Ascent",
    "Backward",
    "BoundMethod",
    "Bounds",
    "BudgetError",
    "Intermediate",
    "Optimised",
    "Zonotope",
    "backward",
    "fused_cross_entropy",
    "interval",
    "method_named",
    "propagate",
    "refine",
]
