"""Adversarial loss plus a penalty on what interval bounds leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from taut.attacks import margin
from taut.bounds import Intermediate
from taut.errors import ConfigError
from taut.operators import Bounds, ReLU
from taut.operators.leaky import LeakyReLU
from taut.training.attack import TrainingAttack
from taut.training.bound.base import share
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Attacked, Robust, Terms
from taut.training.progress import Losses, Progress

Term = Literal["stability", "ambiguous-area"]
"""What a penalty measures."""


def stability(bounds: Bounds) -> Tensor:
    r"""Return :math:`-\sum_i \tanh(1 + u_i l_i)` of one layer, ``(B,)``; low where signs are kept.

    Close to -1 per neuron whose sign never changes, up to 1 where it can (Xiao et al. 2019).
    """
    return -torch.tanh(1.0 + bounds.upper * bounds.lower).flatten(1).sum(1)


def ambiguous_area(bounds: Bounds) -> Tensor:
    r"""Return :math:`\sum_i \max(-l_i, 0) \max(u_i, 0)` of one layer, ``(B,)``.

    Twice the area of the triangles that relax the layer's ReLUs (De Palma et al. 2022).
    """
    return (bounds.lower.neg().relu() * bounds.upper.relu()).flatten(1).sum(1)


_LAYER: Mapping[str, Callable[[Bounds], Tensor]] = MappingProxyType(
    {"stability": stability, "ambiguous-area": ambiguous_area}
)


@dataclass(frozen=True)
class Penalty:
    r"""Adversarial loss plus a penalty on the interval bounds of the region.

    .. math:: L = \kappa L_\text{nat} + (1-\kappa) (L_\text{adv} + w R), \qquad
              \kappa = \kappa_0 + (\kappa_1 - \kappa_0)\, \varepsilon/\varepsilon_{\max}

    With the bounds :math:`l_i, u_i` of the inputs of the ReLUs (leaky ones too), mean over the
    images:

    - ``stability``: :math:`R = -\sum_i \tanh(1 + u_i l_i)`, over all layers;
    - ``ambiguous-area``: :math:`R = \frac1n \sum_{k=1}^n \sum_{i \in k} [-l_i]_+ [u_i]_+`, over
      n layers.

    An epoch whose last eps is about zero trains on the natural loss alone. What has no weight is
    not computed.

    Parameters
    ----------
    weight
        Weight of the penalty, at least 0.
    term
        ``stability`` or ``ambiguous-area``.
    attack
        How the attacked images are found; ``attack.scale`` widens its ball.
    scale
        Radius of the bounded sets over that of the step; the robust figures are those of the sets.
    kappa_start, kappa_end
        Weight of the natural loss at eps 0 and at full eps, in [0, 1].
    outputs
        Count the logits as one more layer, as the published code of IBP-R does.
    masked
        Penalise only images whose attacked point is classified correctly.

    Raises
    ------
    ConfigError
        When a field is out of range, or the network has no ReLU.

    References
    ----------
    Xiao et al., *Training for faster adversarial robustness verification via inducing ReLU
    stability* (2019); De Palma et al., *IBP regularization for verified adversarial
    robustness via branch-and-bound* (2022), and the published codes of both.

    """

    weight: float = 1e-4
    term: Term = "stability"
    attack: TrainingAttack = field(default_factory=TrainingAttack)
    scale: float = 1.0
    kappa_start: float = 0.0
    kappa_end: float = 0.0
    outputs: bool = False
    masked: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < float("inf"):
            raise ConfigError(f"method.weight must be a finite number >= 0; got {self.weight}")
        if self.term not in get_args(Term):
            known = ", ".join(get_args(Term))
            raise ConfigError(f"method.term must be one of {known}; got {self.term!r}")
        if not 0.0 < self.scale < float("inf"):
            raise ConfigError(f"method.scale must be a positive number; got {self.scale}")
        for name in ("kappa_start", "kappa_end"):
            share(f"method.{name}", getattr(self, name))

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the adversarial loss with its penalty, and the natural loss's share."""
        kappa = progress.between(self.kappa_start, self.kappa_end)
        if progress.natural_only or kappa == 1.0:
            return natural_alone(terms)
        attacked = terms.attacked(self.attack)
        natural = terms.natural() if kappa > 0.0 else None
        total = attacked.losses.mean()
        robust, parts = None, {}
        if self.weight > 0.0:
            robust = self._widened(terms).robust()
            penalty = self._penalty(terms, attacked, robust)
            parts["penalty"] = penalty.detach()
            total = total + self.weight * penalty
        if natural is not None:
            total = kappa * natural + (1.0 - kappa) * total
        losses = answer(terms, total, attacked, robust, natural)
        return replace(losses, parts={**losses.parts, **parts})

    def _widened(self, terms: Terms) -> Terms:
        """Return the terms of a step whose radius is ``scale`` times as large."""
        if self.scale == 1.0:
            return terms
        now = terms.progress
        wider = replace(now, eps=now.eps * self.scale, eps_max=now.eps_max * self.scale)
        return replace(terms, progress=wider)

    def _penalty(self, terms: Terms, attacked: Attacked, robust: Robust) -> Tensor:
        """Return R, mean over the images and weighted over the input sets."""
        each: Tensor | float = 0.0
        for bounded, weight in zip(robust.bounded, robust.weights, strict=True):
            layers = _ambiguous_layers(bounded.intermediate, self.outputs)
            sizes = torch.stack([_LAYER[self.term](layer) for layer in layers])
            summed = sizes.mean(0) if self.term == "ambiguous-area" else sizes.sum(0)
            each = each + weight * summed
        assert isinstance(each, Tensor), "a region gives at least one input set"
        if self.masked:
            each = each * (margin(attacked.logits.detach(), terms.batch.y) > 0)
        return each.mean()


def _ambiguous_layers(intermediate: Intermediate, outputs: bool) -> list[Bounds]:
    """Return the bounds of every node that bends at zero, in order."""
    net = intermediate.net
    found = [
        intermediate.at(node)
        for node, readers in net.bent().items()
        if any(isinstance(reader, ReLU | LeakyReLU) for reader in readers)
    ]
    if not found:
        raise ConfigError(
            "the penalty is one on ReLUs and the network has none; choose another method"
        )
    return [*found, intermediate.at(net.output.index)] if outputs else found
