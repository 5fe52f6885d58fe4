"""Two gradients, one update: AdvIBP's weights of adversarial and robust loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.errors import ConfigError
from taut.training.attack import TrainingAttack
from taut.training.combination.answers import answer, natural_alone
from taut.training.combination.base import Attacked, Robust, Terms
from taut.training.combination.carried import carried
from taut.training.combination.fosc import clipped_fosc, unclipped_fosc
from taut.training.combination.kappas import (
    Kappas,
    Overlap,
    bisecting,
    prefer_adversarial,
    prefer_robust,
)
from taut.training.parameters import no_weights
from taut.training.progress import NEGLIGIBLE_EPS, Losses, Progress
from taut.training.scaling import EPOCHS
from taut.training.schedule import EpsRamp

RampLoss = Literal["joint", "ibp-only"]
Scope = Literal["all", "first-layer"]
Stationarity = Literal["clipped", "unclipped", "batch-mean"]


def _attack() -> TrainingAttack:
    return TrainingAttack(steps=1, step=1.25)


def _ramp() -> EpsRamp:
    return EpsRamp("smoothed", start=10, length=40)


@dataclass(frozen=True)
class Bisector:
    r"""Adversarial and robust loss, weighted anew at each step so that neither undoes the other.

    With :math:`a, b` the running means of the gradients of :math:`L_\text{adv}` and
    :math:`L_\text{rob}` in earlier steps and :math:`v_a, v_b` those of their norms (bias corrected;
    the first step, which has no earlier one, uses its own):

    .. math:: L = \kappa_\text{adv} L_\text{adv} + \kappa_\text{rob} L_\text{rob}
              + \kappa_\text{sq} L_\text{rob}^2

    1. :math:`\langle a,b\rangle > 0`: the update halves the angle between the two, see
       :func:`~taut.training.combination.kappas.bisecting`;
    2. else, where the attack is strong (its mean
       :func:`~taut.training.combination.fosc.clipped_fosc` is at most the threshold):
       :math:`1, -\langle a,b\rangle/v_b^2, 0`;
    3. else :math:`-\langle a,b\rangle/v_a^2, 1, \tfrac12`.

    The weights are numbers: the update is :math:`\kappa_\text{adv} \nabla L_\text{adv} +
    (\kappa_\text{rob} + 2 \kappa_\text{sq} L_\text{rob}) \nabla L_\text{rob}`, of the two
    gradients that the moments need anyway. Where a mean norm is zero, that loss has no weight.
    Means, moments and decisions are those of the whole batch, whatever the number of processes.

    Epochs whose last eps is about zero train on the natural loss, and from the start of
    ``attack_ramp`` on the adversarial loss alone, in the ball of that ramp. From then on attack
    and bounds have the eps of the run.

    Parameters
    ----------
    attack
        How the attacked images are found; published: one step of 1.25 eps.
    attack_ramp
        Ramp of the attack's eps before that of the bounds begins. Published: epochs 10 to 49 of
        250 (MNIST, with the bounds' eps from 50 to 99), 400 to 799 of 3200 (CIFAR-10).
    threshold
        Stationarity (loss per image, pixels of [0, 1]) up to which an attack counts as strong. The
        published values 1e-4 and 1e-5 are of gradients of a mean over 256 images.
    threshold_start, threshold_length
        It falls linearly to 0 over so many epochs, counted from 0 (published: 109 and 49; 1829
        and 279 on CIFAR-10).
    mean_decay, norm_decay
        Decay of the moments per step, in [0, 1).
    ramp_loss
        ``joint`` weighs both losses while eps grows; ``ibp-only`` trains on the robust loss alone
        until eps is full, as the published code does.
    moments
        Gradients the weights are computed from: of ``all`` parameters, or of the ``first-layer``
        alone (the first trainable tensor but learned thresholds of cells; the published
        code).
    reg_in_both
        Add the square in case 2, too (the published code).
    fosc
        ``clipped`` to the pixel range; ``unclipped``; or ``batch-mean``, unclipped and divided
        by the images of the batch (the published code).
    exact_projection
        Divide by the squared norms of the means, not by squared means of the norms: then case 2
        is orthogonal to b, and case 3 to a but for the square.

    Raises
    ------
    ConfigError
        When a field is out of range.

    References
    ----------
    Fan and Li, *Adversarial training and provable robustness: a tale of two objectives* (2021),
    Algorithm 1, with :math:`\gamma` as its geometry defines it, and its published code.

    """

    attack: TrainingAttack = field(default_factory=_attack)
    attack_ramp: EpsRamp = field(default_factory=_ramp)
    threshold: float = 0.0256
    threshold_start: float = field(default=109.0, metadata=EPOCHS)
    threshold_length: float = field(default=49.0, metadata=EPOCHS)
    mean_decay: float = 0.9
    norm_decay: float = 0.99
    ramp_loss: RampLoss = "joint"
    moments: Scope = "all"
    reg_in_both: bool = False
    fosc: Stationarity = "clipped"
    exact_projection: bool = False

    def __post_init__(self) -> None:
        for name in ("threshold", "threshold_start", "threshold_length"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"method.{name} must be a finite number >= 0; got {value}")
        for name in ("mean_decay", "norm_decay"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"method.{name} must lie in [0, 1); got {value}")
        for name, known in (("ramp_loss", RampLoss), ("moments", Scope), ("fosc", Stationarity)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ConfigError(
                    f"method.{name} must be one of {', '.join(get_args(known))}; got {value!r}"
                )

    def threshold_at(self, epochs: float) -> float:
        """Return the threshold after so many epochs."""
        since = epochs - self.threshold_start
        if since <= 0.0:
            return self.threshold
        if since >= self.threshold_length:
            return 0.0
        return self.threshold * (1.0 - since / self.threshold_length)

    def combine(self, terms: Terms, progress: Progress) -> Losses:
        """Return the loss of the phase the run is in."""
        if progress.natural_only:
            radius = self.attack_ramp.eps(progress.step, progress.eps_max, progress.steps)
            if radius < NEGLIGIBLE_EPS:
                return natural_alone(terms)
            attacked = terms.attacked(self.attack, radius)
            return answer(terms, attacked.losses.mean(), attacked, None)
        if self.ramp_loss == "ibp-only" and progress.eps < progress.eps_max:
            robust = terms.robust()
            return answer(terms, robust.loss, None, robust)
        attacked, robust = terms.attacked(self.attack), terms.robust()
        return answer(terms, self._joint(terms, attacked, robust), attacked, robust)

    def _joint(self, terms: Terms, attacked: Attacked, robust: Robust) -> Tensor:
        """Return the weighted loss, which carries its gradient, and renew the moments."""
        progress = terms.progress
        parameters = [p for p in terms.batch.graph.module.parameters() if p.requires_grad]
        adversarial = attacked.losses.mean()
        by_adversarial = _gradients(adversarial, parameters)
        by_robust = _gradients(robust.loss, parameters)
        scope = slice(None)
        if self.moments == "first-layer":
            others = no_weights(terms.batch.graph.module)
            place = next((i for i, p in enumerate(parameters) if id(p) not in others), 0)
            scope = slice(place, place + 1)
        overlap = self._renewed(
            progress.average(_flat(by_adversarial[scope])),
            progress.average(_flat(by_robust[scope])),
            progress.memory,
        )
        kappas = self._kappas(overlap, terms, attacked)
        mean = progress.average(robust.loss.detach())  # of the whole batch, as it is squared
        on_robust = kappas.robust + kappas.square * mean
        value = kappas.adversarial * adversarial.detach() + on_robust * robust.loss.detach()
        on_robust = on_robust + kappas.square * mean
        gradients = [
            kappas.adversarial * a + on_robust * b
            for a, b in zip(by_adversarial, by_robust, strict=True)
        ]
        return carried(value, parameters, gradients)

    def _renewed(self, a: Tensor, b: Tensor, memory: dict[str, Tensor]) -> Overlap:
        """Return what the moments say of this step, then take its gradients into them."""
        now = {
            "mean_adversarial": a,
            "mean_robust": b,
            "norm_adversarial": torch.linalg.vector_norm(a),
            "norm_robust": torch.linalg.vector_norm(b),
        }
        decays = [self.mean_decay, self.mean_decay, self.norm_decay, self.norm_decay]
        old = {name: memory.get(f"bisector/{name}") for name in now}
        count = memory.get("bisector/count")
        seen = 0 if count is None else int(count)
        corrected = []
        for (name, value), decay in zip(now.items(), decays, strict=True):
            # the first step stands for the one before it, as nothing else does
            moment = old[name] if seen else (1.0 - decay) * value
            assert moment is not None, "moments are stored together"
            corrected.append(moment / (1.0 - decay ** max(seen, 1)))
            memory[f"bisector/{name}"] = decay * moment + (1.0 - decay) * value
        memory["bisector/count"] = torch.tensor(max(seen, 1) + 1)
        return Overlap.of(*corrected)

    def _kappas(self, overlap: Overlap, terms: Terms, attacked: Attacked) -> Kappas:
        """Return the weights of this step."""
        if overlap.ab > 0.0:
            return bisecting(overlap)
        limit = self.threshold_at(terms.progress.epochs)
        if self._stationarity(terms, attacked) <= limit:
            kappas = prefer_adversarial(overlap, self.exact_projection)
            return kappas._replace(square=0.5) if self.reg_in_both else kappas
        return prefer_robust(overlap, self.exact_projection)._replace(square=0.5)

    def _stationarity(self, terms: Terms, attacked: Attacked) -> float:
        """Return the attack's distance from an optimum, mean over the whole batch."""
        batch, progress = terms.batch, terms.progress
        point = attacked.point.detach().requires_grad_()
        losses = F.cross_entropy(batch.evaluated(point), batch.y, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), point)
        point = point.detach()
        if self.fosc == "clipped":
            each = clipped_fosc(point, attacked.box, gradient)
        else:
            eps = progress.eps * self.attack.scale
            each = unclipped_fosc(point, batch.x, eps, gradient)
        if self.fosc == "batch-mean":
            each = each / (progress.images or len(each))
        return float(progress.average(each.mean()))


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of every parameter, zeros where the loss does not depend on one."""
    return torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
