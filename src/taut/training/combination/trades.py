"""Natural loss and the divergence an attack can cause (TRADES)."""

from __future__ import annotations

from dataclasses import dataclass, field

from taut.attacks.losses import divergence
from taut.errors import ConfigError
from taut.training.attack import TrainingAttack
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Terms
from taut.training.progress import Losses, Progress


def _attack() -> TrainingAttack:
    return TrainingAttack(steps=10, step=0.225, loss="kl", spread=0.03)


@dataclass(frozen=True)
class Trades:
    r"""Natural loss plus the divergence between clean and attacked class probabilities.

    .. math:: L = \mathrm{CE}(z(x), y) + w\, \frac1B \sum_i
              \mathrm{KL}\bigl(p(x_i)\,\|\,p(x_{i,\text{adv}})\bigr), \qquad
              p = \mathrm{softmax}(z)

    where the attack maximises that divergence; gradients flow through both probabilities. Nothing
    is bounded: region and bound of the grid are not asked. An epoch whose last eps is about zero
    trains on the natural loss alone.

    Parameters
    ----------
    weight
        Weight of the divergence, :math:`1/\lambda` of the paper, at least 0; at 0 nothing is
        attacked. Published: 6 (CIFAR-10, the default), 1 (MNIST).
    attack
        How the attacked images are found. The default is the published one for CIFAR-10: ten
        steps of 0.225 eps from a start near the image (0.03 eps; where the divergence is zero
        its gradient is, too, so the image itself is no start).

    Raises
    ------
    ConfigError
        When ``weight`` is negative or not finite.

    References
    ----------
    Zhang et al., *Theoretically principled trade-off between robustness and accuracy* (2019),
    Algorithm 1, and its published code.

    """

    weight: float = 6.0
    attack: TrainingAttack = field(default_factory=_attack)

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < float("inf"):
            raise ConfigError(f"method.weight must be a finite number >= 0; got {self.weight}")

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the natural loss plus the weighted divergence."""
        if progress.natural_only or self.weight == 0.0:
            return natural_alone(terms)
        attacked = terms.attacked(self.attack)
        natural = terms.natural()
        apart = divergence(terms.batch.logits, attacked.logits).mean()
        losses = answer(terms, natural + self.weight * apart, attacked, None, natural)
        parts = {**losses.parts, "divergence": apart.detach()}
        return Losses(losses.total, parts, losses.rates, terms.batch)
