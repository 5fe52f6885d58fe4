"""One file per family: how each operator maps points, intervals and linear forms."""

from taut.operators import norm, relu, shape  # noqa: F401 - importing registers the operators
from taut.operators.affine import Conv2d, Linear, Scale
from taut.operators.base import Activation, Affine, Operator
from taut.operators.forms import LINES, Bounds, Interval, Lines
from taut.operators.registry import OPERATORS, Case, Entry, supported
from taut.operators.relu import ReLU
from taut.operators.shape import Add, Identity, Reshape

__all__ = [
    "LINES",
    "OPERATORS",
    "Activation",
    "Add",
    "Affine",
    "Bounds",
    "Case",
    "Conv2d",
    "Entry",
    "Identity",
    "Interval",
    "Linear",
    "Lines",
    "Operator",
    "ReLU",
    "Reshape",
    "Scale",
    "supported",
]
