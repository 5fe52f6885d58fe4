"""Bounds of a network over a region: the methods of the bounding grid."""

from taut.bounds import backward, interval
from taut.bounds.interval import Intermediate, propagate
from taut.bounds.methods import IBP, METHODS, Backward, BoundMethod, method_named
from taut.bounds.refine import refine
from taut.operators.forms import Bounds

__all__ = [
    "IBP",
    "METHODS",
    "Backward",
    "BoundMethod",
    "Bounds",
    "Intermediate",
    "backward",
    "interval",
    "method_named",
    "propagate",
    "refine",
]
