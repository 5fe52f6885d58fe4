"""Training with hybrid zonotopes."""

from taut.training.bound import Zonotope
from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "diffai",
    "DiffAI: hybrid zonotopes, the ranges of their ReLUs intersected with IBP",
    "Mirman et al. 2018, PMLR 80:3578-3586",
    "full ball x zonotope (hybrid) x robust loss alone",
    "CE(-l, y), l by hybrid zonotopes; method.intersect = false leaves IBP out",
    "3 + 1 for each input pixel",
    GridPoint(bound=Zonotope(), combination=Mix(0.0, 0.0)),
)
