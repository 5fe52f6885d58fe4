"""The cross-entropy of margins between an attack and a bound (CC-IBP)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from taut.training.attack import TrainingAttack
from taut.training.bound.base import share
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Terms
from taut.training.combination.sum import corner_attack
from taut.training.losses import true_column
from taut.training.progress import Losses, Progress


@dataclass(frozen=True)
class ConvexLogits:
    r"""The cross-entropy of a convex combination of bounded and attacked margins.

    .. math:: L = \mathrm{CE}\bigl(-(\alpha\, l + (1-\alpha)\, m_\text{adv}), y\bigr), \qquad
              m_{\text{adv},j} = z_y(x_\text{adv}) - z_j(x_\text{adv})

    with :math:`l` the lower bounds of the margins. Where the region gives several input sets it
    is the weighted mean of their losses. With :math:`\alpha = 0` it is the adversarial loss and
    with :math:`\alpha = 1` the robust one; what has no weight is not computed. An epoch whose last
    eps is about zero trains on the natural loss alone.

    Parameters
    ----------
    alpha
        Weight of the bounds, in [0, 1]. Published: 0.1 (MNIST 0.1), 0.3 (MNIST 0.3), 0.01
        (CIFAR-10 2/255 and Tiny-ImageNet), 0.5 (CIFAR-10 8/255, the default).
    attack
        How the attacked images are found, as in :class:`~taut.training.Sum`.

    Raises
    ------
    ConfigError
        When ``alpha`` leaves [0, 1].

    References
    ----------
    De Palma et al., *Expressive losses for verified robustness via convex combinations* (2024),
    CC-IBP, and its published code.

    """

    alpha: float = 0.5
    attack: TrainingAttack = field(default_factory=corner_attack)

    def __post_init__(self) -> None:
        share("method.alpha", self.alpha)

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the loss of the combined margins."""
        if progress.natural_only:
            return natural_alone(terms)
        y = terms.batch.y
        attacked = terms.attacked(self.attack) if self.alpha < 1.0 else None
        robust = terms.robust() if self.alpha > 0.0 else None
        if attacked is None:
            assert robust is not None, "one of the two has weight"
            return answer(terms, robust.loss, None, robust)
        if robust is None:
            return answer(terms, attacked.losses.mean(), attacked, None)
        found = attacked.logits.gather(1, y[:, None]) - attacked.logits  # zero at the true class
        total: Tensor | float = 0.0
        for bounded, weight in zip(robust.bounded, robust.weights, strict=True):
            lower = bounded.margins.masked_fill(true_column(bounded.margins, y), 0.0)
            mixed = self.alpha * lower + (1.0 - self.alpha) * found
            total = total + weight * F.cross_entropy(-mixed, y)
        assert isinstance(total, Tensor), "a region gives at least one input set"
        return answer(terms, total, attacked, robust)
