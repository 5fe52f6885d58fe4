"""Input sets: the perturbations a proof has to cover.

A region is clipped in one place, here: first the ball around the image in raw
pixels, then the pixel range. Normalisation is a layer of the model, so ``eps``
is always in pixel units of [0, 1].
"""

from taut.region.base import PIXELS, Region, check_eps
from taut.region.box import Box
from taut.region.lp import LpBall

__all__ = ["PIXELS", "Box", "LpBall", "Region", "check_eps"]
