"""GM: robustness over several radii, with weights that fall."""

from taut.training.bound import IBP, CrownIBP
from taut.training.methods.base import Description, GridPoint
from taut.training.region import Radii

PAPER = "Liang et al. 2023, FITEE (global and monotonically decreasing robustness training)"

GM_IBP = Description(
    "gm-ibp",
    "GM on IBP: ten radii up to eps, the smaller ones weighing more",
    PAPER,
    "radii x ibp x mix",
    "kappa CE(z(x), y) + (1 - kappa) sum_i c_i CE(-l_IBP(i eps / N), y), c_i ~ 1 / sqrt(i)",
    "1 + 2 N",
    GridPoint(region=Radii(), bound=IBP()),
)
GM_CROWN_IBP = Description(
    "gm-crown-ibp",
    "GM on CROWN-IBP: ten radii up to eps, the smaller ones weighing more",
    PAPER,
    "radii x crown-ibp x mix",
    "kappa CE(z(x), y) + (1 - kappa) sum_i c_i CE(-l_CROWN-IBP(i eps / N), y), c_i ~ 1 / sqrt(i)",
    "1 + N (2 + (K - 1))",
    GridPoint(region=Radii(), bound=CrownIBP(beta_start=1.0, beta_end=1.0)),
)
