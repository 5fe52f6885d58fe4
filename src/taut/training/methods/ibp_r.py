"""IBP-R training.

Attack and intervals share one ball, 2.1 times as wide as that of the run; the natural loss fades
out as eps grows. With ``masked``, a weight of 5e-3 and a scale of 1.7 it is the published
configuration of CIFAR-10 at 8/255.
"""

from taut.training.attack import TrainingAttack
from taut.training.combination import Penalty
from taut.training.methods.base import Description, GridPoint

METHOD = Description(
    "ibp-r",
    "IBP-R: adversarial training with the area of ambiguous ReLUs",
    "De Palma et al. 2022, arXiv:2206.14772",
    "full ball x ibp x penalty",
    "kappa CE(z(x), y) + (1 - kappa) (CE(z(x_adv), y) + weight sum [-l]_+ [u]_+ / layers)",
    "steps + 4.5: the attack, its last point, clean pass and interval pass (midpoints, radii)",
    GridPoint(
        combination=Penalty(
            weight=1e-4,
            term="ambiguous-area",
            attack=TrainingAttack(steps=8, step=0.25, scale=2.1),
            scale=2.1,
            kappa_start=1.0,
            outputs=True,
        )
    ),
)
