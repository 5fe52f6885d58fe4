"""IBP training as Shi et al. do it, as far as it is the method's."""

from taut.training.combination import Mix
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "ibp-shi",
    "IBP on the robust loss alone; initialisation and regularisers are the recipe's",
    "Shi et al. 2021, arXiv:2103.17268",
    "full ball x ibp x robust loss alone",
    "CE(-l_IBP, y), and in a recipe the terms of [regularise]",
    "3: clean pass for the statistics and interval pass",
    GridPoint(combination=Mix(0.0, 0.0)),
)
