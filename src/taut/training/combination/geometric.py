"""The weighted geometric mean of robust and adversarial loss (Exp-IBP)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from taut.training.attack import TrainingAttack
from taut.training.bound.base import share
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Terms
from taut.training.combination.sum import corner_attack
from taut.training.progress import Losses, Progress

LEAST_LOSS = 1e-12
"""Losses below count as this much in the weights, which would be infinite at zero."""


@dataclass(frozen=True)
class Geometric:
    r"""The weighted geometric mean of the two batch means.

    .. math:: L = L_\text{rob}^{\alpha}\, L_\text{adv}^{1-\alpha}

    Its gradient is :math:`\alpha (L_\text{adv}/L_\text{rob})^{1-\alpha} \nabla L_\text{rob} +
    (1-\alpha) (L_\text{rob}/L_\text{adv})^{\alpha} \nabla L_\text{adv}`. The two coefficients are
    computed as numbers, from losses raised to at least 1e-12, so they stay finite where a loss
    vanishes. The means are those of the whole batch: a product of means over the shares of
    several processes would be another loss. With :math:`\alpha = 0` or 1 one of the losses is
    left, and the other is not computed. An epoch whose last eps is about zero trains on the
    natural loss alone.

    Parameters
    ----------
    alpha
        Exponent of the robust loss, in [0, 1]. Published: 0.095 (CIFAR-10 2/255), 0.5 (CIFAR-10
        8/255, the default), 0.04 (Tiny-ImageNet).
    attack
        How the attacked images are found, as in :class:`~taut.training.Sum`.

    Raises
    ------
    ConfigError
        When ``alpha`` leaves [0, 1].

    References
    ----------
    De Palma et al., *Expressive losses for verified robustness via convex combinations* (2024),
    Exp-IBP, and its published code.

    """

    alpha: float = 0.5
    attack: TrainingAttack = field(default_factory=corner_attack)

    def __post_init__(self) -> None:
        share("method.alpha", self.alpha)

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the geometric mean, as a weighted sum with its value and gradient."""
        if progress.natural_only:
            return natural_alone(terms)
        attacked = terms.attacked(self.attack) if self.alpha < 1.0 else None
        robust = terms.robust() if self.alpha > 0.0 else None
        if attacked is None:
            assert robust is not None, "one of the two has weight"
            return answer(terms, robust.loss, None, robust)
        adversarial = attacked.losses.mean()
        if robust is None:
            return answer(terms, adversarial, attacked, None)
        a, r = _size(adversarial, progress), _size(robust.loss, progress)
        # alpha (a/r)^(1-alpha) r + (1-alpha) (r/a)^alpha a = r^alpha a^(1-alpha)
        total = (
            self.alpha * (a / r) ** (1.0 - self.alpha) * robust.loss
            + (1.0 - self.alpha) * (r / a) ** self.alpha * adversarial
        )
        return answer(terms, total, attacked, robust)


def _size(loss: Tensor, progress: Progress) -> Tensor:
    """Return the whole batch's mean as a constant above zero."""
    return progress.average(loss.detach()).clamp(min=LEAST_LOSS)
