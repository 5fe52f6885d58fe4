"""Robust and adversarial loss, added with weights (MTL-IBP)."""

from __future__ import annotations

from dataclasses import dataclass, field

from taut.training.attack import TrainingAttack
from taut.training.bound.base import share
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Terms
from taut.training.progress import Losses, Progress


def corner_attack() -> TrainingAttack:
    """Return one signed step long enough to end in a corner of the ball."""
    return TrainingAttack(steps=1, step=10.0)


@dataclass(frozen=True)
class Sum:
    r"""A convex combination of the robust and the adversarial loss.

    .. math:: L = \alpha L_\text{rob} + (1-\alpha) L_\text{adv}, \qquad
              L_\text{adv} = \mathrm{CE}(z(x_\text{adv}), y)

    It runs from adversarial training (:math:`\alpha = 0`) to training on the bound alone
    (:math:`\alpha = 1`); a term without weight is not computed. An epoch whose last eps is
    about zero trains on the natural loss alone.

    Parameters
    ----------
    alpha
        Weight of the robust loss, in [0, 1]. Published: 0.01 (MNIST 0.1), 0.08 (MNIST 0.3), 0.004
        (CIFAR-10 2/255), 0.5 (CIFAR-10 8/255, the default), 0.01 (Tiny-ImageNet).
    attack
        How the attacked images are found. The published code takes one step of ten half widths,
        and on CIFAR-10 at 2/255 eight of a quarter in a ball 2.1 times as wide; of one step it
        keeps the end, here the worse of start and end is kept.

    Raises
    ------
    ConfigError
        When ``alpha`` leaves [0, 1].

    References
    ----------
    De Palma et al., *Expressive losses for verified robustness via convex combinations* (2024),
    MTL-IBP, and its published code.

    """

    alpha: float = 0.5
    attack: TrainingAttack = field(default_factory=corner_attack)

    def __post_init__(self) -> None:
        share("method.alpha", self.alpha)

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the weighted sum."""
        if progress.natural_only:
            return natural_alone(terms)
        attacked = terms.attacked(self.attack) if self.alpha < 1.0 else None
        robust = terms.robust() if self.alpha > 0.0 else None
        if attacked is None:
            assert robust is not None, "one of the two has weight"
            return answer(terms, robust.loss, None, robust)
        total = attacked.losses.mean()
        if robust is not None:
            total = self.alpha * robust.loss + (1.0 - self.alpha) * total
        return answer(terms, total, attacked, robust)
