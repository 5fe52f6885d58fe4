"""Robust and adversarial loss, added with weights (MTL-IBP)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

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

    .. math:: L = \nu L_\text{nat} + (1-\nu)
              \bigl(\alpha L_\text{rob} + (1-\alpha) L_\text{adv}\bigr), \qquad
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
    natural
        Weight :math:`\nu` of the natural loss, in [0, 1]; 0 in the paper, 0.1 or 0.3 in some
        settings of CTBench, which writes 1 - w.

    Raises
    ------
    ConfigError
        When ``alpha`` or ``natural`` leaves [0, 1].

    References
    ----------
    De Palma et al., *Expressive losses for verified robustness via convex combinations* (2024),
    MTL-IBP, and its published code; Mao et al., *CTBench: a library and benchmark for certified
    training* (2024), for the natural loss.

    """

    alpha: float = 0.5
    attack: TrainingAttack = field(default_factory=corner_attack)
    natural: float = 0.0

    def __post_init__(self) -> None:
        share("method.alpha", self.alpha)
        share("method.natural", self.natural)

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the weighted sum."""
        if progress.natural_only:
            return natural_alone(terms)
        attacked = terms.attacked(self.attack) if self.alpha < 1.0 else None
        robust = terms.robust() if self.alpha > 0.0 else None
        total = _weighted(
            (self.alpha, None if robust is None else robust.loss),
            (1.0 - self.alpha, None if attacked is None else attacked.losses.mean()),
        )
        if self.natural == 0.0:
            return answer(terms, total, attacked, robust)
        natural = terms.natural()
        total = self.natural * natural + (1.0 - self.natural) * total
        return answer(terms, total, attacked, robust, natural)


def _weighted(*terms: tuple[float, Tensor | None]) -> Tensor:
    """Return the weighted sum of the losses that there are; one of weight 1 is itself."""
    found = [loss if weight == 1.0 else weight * loss for weight, loss in terms if loss is not None]
    return found[0] if len(found) == 1 else found[0] + found[1]
