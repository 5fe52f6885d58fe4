"""Terms added to the loss of any method, one file each."""

from taut.training.regularise.balance import balance
from taut.training.regularise.base import Regularisers
from taut.training.regularise.l1 import l1
from taut.training.regularise.tightness import tightness

__all__ = ["Regularisers", "balance", "l1", "tightness"]
