"""Natural and robust loss in a fixed or scheduled proportion."""

from __future__ import annotations

from dataclasses import dataclass

from taut.training.bound.base import share
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Terms
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
        """Return the mixed loss; a term without weight is not computed."""
        kappa = progress.between(self.kappa_start, self.kappa_end)
        if progress.natural_only:
            return natural_alone(terms)
        if kappa == 0.0:
            robust = terms.robust()
            return answer(terms, robust.loss, None, robust)
        natural, robust = terms.natural(), terms.robust()
        total = kappa * natural + (1.0 - kappa) * robust.loss
        return answer(terms, total, None, robust, natural)
