"""Training with the convex outer adversarial polytope."""

from taut.training.bound import CROWN
from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "coap",
    "convex outer adversarial polytope: same-slope lines at every layer, intersected with IBP",
    "Wong and Kolter 2018, arXiv:1711.00851",
    "full ball x crown (same-slope) x robust loss alone",
    "CE(-l, y), l by the dual network; method.intersect = false leaves IBP out, as published",
    "3 + (K - 1) + one for each unstable neuron",
    GridPoint(bound=CROWN(lines="same-slope"), combination=Mix(0.0, 0.0)),
)
