"""IBP training."""

from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "ibp",
    "interval bound propagation",
    "Gowal et al. 2018, arXiv:1810.12715",
    "full ball x ibp x mix",
    "kappa CE(z(x), y) + (1 - kappa) CE(-l_IBP, y)",
    "3: clean pass and interval pass (midpoints, radii)",
    GridPoint(),
)
