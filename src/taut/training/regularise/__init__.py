"""Terms added to the loss of any method."""

from taut.training.regularise.base import Regularisers

__all__ = ["Regularisers"]
