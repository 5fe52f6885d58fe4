"""One file per family: how each operator maps points, intervals and linear forms."""

from taut.operators import (  # noqa: F401 - importing registers the operators
    clip,
    convex,
    convolve,
    gated,
    layout,
    leaky,
    matmul,
    norm,
    ramp,
    relu,
    shape,
    sshaped,
)
from taut.operators.affine import Conv2d, Linear, Scale
from taut.operators.arithmetic import Add
from taut.operators.base import Activation, Affine, Operator
from taut.operators.cells import Beside, Ends, Steps
from taut.operators.combine import Combine
from taut.operators.convtranspose import ConvTranspose2d
from taut.operators.forms import LINES, Bounds, Interval, Lines
from taut.operators.join import Concat, Fill
from taut.operators.maximum import Maximum, PoolWindows
from taut.operators.padding import Pad
from taut.operators.pool import AvgPool2d
from taut.operators.product import Product, Square
from taut.operators.reduce import Sum
from taut.operators.registry import OPERATORS, Case, Entry, supported
from taut.operators.relu import ReLU
from taut.operators.shape import Identity, Reshape

__all__ = [
    "LINES",
    "OPERATORS",
    "Activation",
    "Add",
    "Affine",
    "AvgPool2d",
    "Beside",
    "Bounds",
    "Case",
    "Combine",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Ends",
    "Entry",
    "Fill",
    "Identity",
    "Interval",
    "Linear",
    "Lines",
    "Maximum",
    "Operator",
    "Pad",
    "PoolWindows",
    "Product",
    "ReLU",
    "Reshape",
    "Scale",
    "Square",
    "Steps",
    "Sum",
    "supported",
]
