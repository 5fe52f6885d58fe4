"""Natural and robust loss in a fixed or scheduled proportion."""

from __future__ import annotations

from dataclasses import dataclass

from taut.training.bound.base import share
from taut.training.combination.base import Terms
from taut.training.losses import accuracy, proved
from taut.training.progress import Losses, Progress


@dataclass(frozen=True)
class Mix:
    r"""Natural and robust loss with a weight tied to eps.

    .. math:: L = \kappa L_\text{nat} + (1-\kappa) L_\text{rob}, \qquad
              \kappa = \kappa_0 + (\kappa_1 - \kappa_0)\, \varepsilon/\varepsilon_{\max}

    With both weights 0 it is the robust loss alone (the ``robust`` mode of published codes). An
    epoch whose last eps is about zero trains on the natural loss alone.

    Parameters
    ----------
    kappa_start, kappa_end
        Weight of the natural loss at eps 0 and at full eps, in [0, 1].

    Raises
    ------
    ConfigError
        When a weight leaves [0, 1].

    References
    ----------
    Gowal et al. (2018), Eq. 12; Zhang et al. (2020), Eq. 11 and its published code, which ties
    the weight to eps rather than to epochs.

    """

    kappa_start: float = 1.0
    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        for name in ("kappa_start", "kappa_end"):
            share(f"method.{name}", getattr(self, name))

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the mixed loss; a term without weight is left out of the gradient's graph."""
        natural = terms.natural()
        rates = {"natural_accuracy": accuracy(terms.batch.logits, terms.batch.y)}
        parts = {"natural": natural.detach()}
        if progress.natural_only:
            return Losses(natural, parts, rates, terms.batch)
        robust = terms.robust()
        parts["robust"] = robust.loss.detach()
        rates["robust_accuracy"] = proved(robust.bounded[-1].margins)
        kappa = progress.between(self.kappa_start, self.kappa_end)
        if kappa == 0.0:
            return Losses(robust.loss, parts, rates, terms.batch, robust.bounded)
        total = kappa * natural + (1.0 - kappa) * robust.loss
        return Losses(total, parts, rates, terms.batch, robust.bounded)
