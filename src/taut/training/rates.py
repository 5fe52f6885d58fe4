"""How the learning rate falls over a run, with the off-by-ones of the published codes.

Like the eps ramp, a rate is a pure function of the 0-based step; nothing is carried along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from taut.errors import ConfigError
from taut.training.scaling import EPOCHS

RateKind = Literal["constant", "milestones", "after-ramp", "cosine", "warmup-cosine"]
MilestoneConvention = Literal["after-epoch", "start-of-epoch"]


@dataclass(frozen=True)
class RateSchedule:
    r"""The learning rate's factor, step by step; the rate is ``train.lr`` times it.

    - ``constant``: 1;
    - ``milestones``: :math:`f^n`, n the number of milestones passed. ``after-epoch`` is a
      scheduler stepped after each epoch: milestone m acts from the 0-based epoch m on (m epochs
      have been trained). ``start-of-epoch`` is SABR's scheduler, stepped at the start of each
      1-based epoch: it acts already in the epoch whose number is m, one epoch earlier;
    - ``after-ramp``: :math:`f^{\lfloor \max(e-R,0)/k\rfloor}`, e the 0-based epoch, R the epoch in
      which eps reaches its target: constant during the ramp, then times f every k epochs;
    - ``cosine``: :math:`\tfrac12(1+\cos(\pi t/T))`, T the steps of the whole run;
    - ``warmup-cosine``: the same half cosine over the steps after the warm-up alone,
      :math:`\tfrac12(1+\cos(\pi (t-w)/(T-w)))` for :math:`t \ge w`.

    During the first ``warmup`` epochs the factor is multiplied by :math:`\min((t+1)/w, 1)`, w the
    steps of the warm-up.

    Parameters
    ----------
    kind
        One of the five above.
    milestones
        Epochs at which the rate is multiplied by ``factor``; a fraction falls inside an epoch.
    factor
        Multiplier f of each decay, in (0, 1].
    every
        Epochs k between two decays (``after-ramp`` only).
    convention
        How ``milestones`` are counted.
    warmup
        Epochs in which the rate grows linearly from about zero, 0 for none; a fraction ends
        inside an epoch.

    Raises
    ------
    ConfigError
        When a field is out of range.

    References
    ----------
    Zhang et al. (2020), published code (``after-epoch``, ``after-ramp``); Mueller et al.,
    *Certified training: small boxes are all you need* (2023), published code
    (``start-of-epoch``); Zhang et al., *Boosting verified training for robust image
    classifications via abstraction* (2023), Appendix (``warmup-cosine``).

    """

    kind: RateKind = "constant"
    milestones: tuple[float, ...] = field(default=(), metadata=EPOCHS)
    factor: float = 0.1
    every: int = field(default=10, metadata=EPOCHS)
    convention: MilestoneConvention = "after-epoch"
    warmup: float = field(default=0.0, metadata=EPOCHS)

    def __post_init__(self) -> None:
        if self.kind not in get_args(RateKind):
            known = ", ".join(get_args(RateKind))
            raise ConfigError(f"lr.kind must be one of {known}; got {self.kind!r}")
        if self.convention not in ("after-epoch", "start-of-epoch"):
            raise ConfigError(
                f"lr.convention must be after-epoch or start-of-epoch; got {self.convention!r}"
            )
        if not 0.0 < self.factor <= 1.0:
            raise ConfigError(f"lr.factor must lie in (0, 1]; got {self.factor:g}")
        if self.every < 1:
            raise ConfigError(f"lr.every must be at least 1 epoch; got {self.every}")
        if self.kind == "milestones" and not self.milestones:
            raise ConfigError('lr.milestones is empty; list epochs, or set lr.kind = "constant"')
        if any(not math.isfinite(m) or m < 0 for m in self.milestones):
            raise ConfigError("lr.milestones must be finite and not negative")
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError("lr.milestones must be in increasing order")
        if not 0.0 <= self.warmup < math.inf:
            raise ConfigError(f"lr.warmup must be a finite number >= 0; got {self.warmup:g}")

    def epoch_origins(self) -> Mapping[str, int]:
        """Return the value of ``milestones`` that stands for no epochs at all."""
        return {"milestones": 1 if self.convention == "start-of-epoch" else 0}

    def factor_at(self, step: int, steps: int, epochs: int, ramp_end: int) -> float:
        """Return the factor at 0-based ``step``.

        Parameters
        ----------
        step
            Optimiser step of the run, from 0.
        steps
            Steps per epoch.
        epochs
            Epochs of the run.
        ramp_end
            The step ``T1`` at which eps reaches its target.

        """
        factor = self._decayed(step, steps, epochs, ramp_end)
        return factor if self.warmup == 0 else factor * min((step + 1) / (self.warmup * steps), 1.0)

    def _decayed(self, step: int, steps: int, epochs: int, ramp_end: int) -> float:
        """Return the factor without the warm-up."""
        if self.kind == "milestones":
            ahead = 1 if self.convention == "start-of-epoch" else 0
            passed = sum(step >= (milestone - ahead) * steps for milestone in self.milestones)
            return float(self.factor**passed)
        if self.kind == "after-ramp":
            since = max(step // steps - math.ceil(ramp_end / steps), 0)
            return float(self.factor ** (since // self.every))
        if self.kind == "cosine":
            return _half_cosine(step / (steps * epochs))
        if self.kind == "warmup-cosine":
            begin = self.warmup * steps
            return _half_cosine((step - begin) / max(steps * epochs - begin, 1.0))
        return 1.0


def _half_cosine(share: float) -> float:
    """Return the half cosine from 1 at share 0 to 0 at share 1, and what it ends with outside."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
