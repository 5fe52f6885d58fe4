"""SABR over the choice of cells, for networks that read cells."""

from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint
from taut.training.region import CellChoices

METHOD = Description(
    "cells-sabr",
    "SABR over cell choices: IBP over a small set of cells around an attacked choice",
    "",
    "cell choices x ibp x robust loss alone",
    "CE(-l_IBP over [c - tau, c + tau], y), values behind the cells; needs model.options.cells",
    "as sabr; one more pass with kind = subset",
    GridPoint(region=CellChoices(), combination=Mix(0.0, 0.0)),
)
