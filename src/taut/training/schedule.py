"""How eps grows over a run: linear and smoothed ramps, and where published codes start them.

Every schedule is a pure function of the 0-based optimiser step of the run, so a resumed run
continues where it stopped without any state of its own. Published codes count epochs from 0 or
from 1 and place the ends of the ramp differently; a named convention translates
``(start, length)`` of a paper's configuration into the two steps ``(T0, T1)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from taut.errors import ConfigError
from taut.training.scaling import EPOCHS

RampKind = Literal["linear", "smoothed", "constant"]
Convention = Literal["crown-ibp", "auto-lirpa", "sabr", "ctbench"]

FIRST_EPOCH: dict[str, int] = {"crown-ibp": 0, "auto-lirpa": 1, "sabr": 1, "ctbench": 0}
"""The number each convention gives to the first epoch of a run."""


@dataclass(frozen=True)
class EpsRamp:
    r"""The ramp of eps, step by step.

    With target :math:`\varepsilon`, step :math:`t` and ends :math:`T_0, T_1`:

    - ``constant``: :math:`\varepsilon` at every step;
    - ``linear``: :math:`\varepsilon\,\mathrm{clip}((t-T_0)/(T_1-T_0), 0, 1)`;
    - ``smoothed``: with :math:`p=\lfloor m(T_1-T_0)\rfloor`, :math:`T_m=T_0+p` and
      :math:`a=\varepsilon/((T_1-T_m)\,q\,p^{q-1}+p^q)`, the curve :math:`a(t-T_0)^q` up to
      :math:`T_m`, then the straight line to :math:`(T_1, \varepsilon)`; value and slope are
      continuous at :math:`T_m`, where :math:`m=1/4, q=4` give exactly :math:`\varepsilon/13`.

    When ``T1 <= T0`` eps jumps from 0 to its target at ``T0``.

    Parameters
    ----------
    kind
        ``linear``, ``smoothed`` or ``constant``.
    start, length
        First epoch and length of the ramp, in epochs, counted as ``convention`` counts.
    convention
        Whose configuration ``start`` and ``length`` come from; see :meth:`ends`.
    mid
        Share ``m`` of the ramp that is curved (smoothed only); Xu et al. (2020) use 0.4 on
        Tiny-ImageNet.
    power
        Exponent ``q`` of the curved part (smoothed only).

    Raises
    ------
    ConfigError
        When a field is out of range.

    References
    ----------
    Gowal et al., *On the effectiveness of interval bound propagation* (2018), published code
    (both curves); Zhang et al., *Towards stable and efficient training of verifiably robust
    neural networks* (2020), published code (``crown-ibp``).

    """

    kind: RampKind = "linear"
    start: int = field(default=1, metadata=EPOCHS)
    length: int = field(default=11, metadata=EPOCHS)
    convention: Convention = "crown-ibp"
    mid: float = 0.25
    power: float = 4.0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "smoothed", "constant"):
            raise ConfigError(
                f"schedule.kind must be linear, smoothed or constant; got {self.kind!r}"
            )
        if self.convention not in FIRST_EPOCH:
            raise ConfigError(
                f"schedule.convention must be one of {', '.join(FIRST_EPOCH)}; "
                f"got {self.convention!r}"
            )
        first = FIRST_EPOCH[self.convention]
        if self.start < first:
            raise ConfigError(
                f"schedule.start must be at least {first}: the {self.convention} convention "
                f"counts epochs from {first}; got {self.start}"
            )
        if self.length < 1:
            raise ConfigError(f"schedule.length must be at least 1 epoch; got {self.length}")
        if not 0.0 <= self.mid <= 1.0:
            raise ConfigError(f"schedule.mid must lie in [0, 1]; got {self.mid:g}")
        if not 2.0 <= self.power <= 16.0:
            raise ConfigError(f"schedule.power must lie in [2, 16]; got {self.power:g}")

    def epoch_origins(self) -> Mapping[str, int]:
        """Return the values of ``start`` and ``length`` that stand for no epochs at all."""
        return {
            "start": FIRST_EPOCH[self.convention],
            "length": 1 if self.convention == "crown-ibp" else 0,
        }

    def ends(self, steps: int) -> tuple[int, int]:
        """Return ``(T0, T1)`` as 0-based steps of the run, ``steps`` being steps per epoch.

        ============= ============== ======================= ======================= =========
        convention    first epoch    T0                      T1                      length
        ============= ============== ======================= ======================= =========
        crown-ibp     0              start S                 (start + length - 1) S  one too
                                                                                     many
        auto-lirpa    1              (start - 1) S           (start + length - 1) S  epochs
        sabr          1              (start - 1) S - 1       (start + length - 1) S  end-start
        ctbench       0              start S                 (start + length) S      end-start
        ============= ============== ======================= ======================= =========

        SABR counts ``t = epoch S + batch`` with epochs from 1, and puts ``T0 = start S - 1``,
        ``T1 = end S`` in that count; both are shifted by one epoch here.
        """
        if steps < 1:
            raise ConfigError(f"an epoch needs at least one step; got {steps}")
        if self.kind == "constant":
            return 0, 0
        first, last = self.start, self.start + self.length
        if self.convention == "crown-ibp":
            return first * steps, (last - 1) * steps
        if self.convention == "auto-lirpa":
            return (first - 1) * steps, (last - 1) * steps
        if self.convention == "sabr":
            return (first - 1) * steps - 1, (last - 1) * steps
        return first * steps, last * steps

    def eps(self, step: int, target: float, steps: int) -> float:
        """Return eps at 0-based ``step``, in the unit of ``target`` (pixels of [0, 1])."""
        if self.kind == "constant":
            return target
        begin, end = self.ends(steps)
        if step >= end:
            return target
        if step <= begin:
            return 0.0
        curved = int(self.mid * (end - begin)) if self.kind == "smoothed" else 0
        if curved == 0:
            return target * (step - begin) / (end - begin)
        # a = target / (straight q p^(q-1) + p^q), with p^q divided out of numerator and
        # denominator so that long ramps do not overflow: value at Tm = target / knee
        straight = end - begin - curved
        knee = straight * self.power / curved + 1.0
        if step < begin + curved:
            return float(target / knee * ((step - begin) / curved) ** self.power)
        middle = target / knee
        return middle + (target - middle) * (step - begin - curved) / straight
