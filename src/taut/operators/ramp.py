"""Ramps: the identity between two knees, and the same smaller slope outside both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from taut.errors import ConfigError, ModelError
from taut.operators.base import Shape
from taut.operators.forms import Bounds, Lines, unknown
from taut.operators.piecewise import PiecewiseLinear
from taut.operators.registry import Case, Entry, Live, Template, Value, builds, live, register

LEAST_RANGE = 1e-4
"""The smallest r a :class:`ParamRamp` works with."""


@dataclass(frozen=True, eq=False)
class Ramp(PiecewiseLinear):
    r""":math:`\eta z + (1 - \eta)\,\mathrm{clip}(z, a, b)`, with :math:`0 \le \eta \le 1`.

    ``eta``, ``low`` (a) and ``high`` (b) broadcast to ``(*shape)``; a knee may be infinite or
    ``None``. With a = 0 and b = r it is ParamRamp, with :math:`\eta = 0` a clip.

    An interval may have the left knee inside (``l < a < u <= b``), the right one, or both; else
    it is stable, and every line is the function itself. Write ``s(p, q)`` for the slope of the
    chord between p and q.

    ========== ================ ================ ============================= =================
    knees      lower tight      upper tight      lower one                     upper one
    ========== ================ ================ ============================= =================
    left       eta              s(l, u)          1                             s(l, u)
    right      s(l, u)          eta              s(l, u)                       1
    both       eta              eta              s(a, u)                       s(l, b)
    ========== ================ ================ ============================= =================

    ``zero`` is tight. ``adaptive`` takes the line of ``one`` below when ``u - a > a - l``, above
    when ``b - l > u - b``, and else the tight one; a tie takes the tight one.
    Source: Lyu et al. 2021, section 4 and table 4.
    """

    name: ClassVar[str] = "ramp"
    eta: Tensor
    low: Tensor | None
    high: Tensor | None

    def forward(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        inner = self._clip(z)
        return inner + self.eta.to(z) * (z - inner)

    def knees(self, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(knee.to(like) for knee in (self.low, self.high) if knee is not None)

    def bends(self, bounds: Bounds) -> Tensor:
        left, right = self._crossed(bounds)
        return left | right

    def lines(self, bounds: Bounds, kind: str) -> Lines:
        r"""Return the lines of a family: those of the clip, scaled, and :math:`\eta z` added.

        The clip :math:`c` rises from p to q, the ends or the knees next to them, and lines of its
        slope m in [0, 1] leave it at the knees or at the ends:

        .. math:: t_L = \min(c(l) - m a', c(u) - m u), \qquad
                  t_U = \max(c(u) - m b', c(l) - m l)

        with knees clamped to the interval. As rises of a clip are not above 1, rounding of m
        costs no soundness; adding :math:`\eta z` rounds as the function itself does.
        """
        if kind == "constant":
            return self.constant_lines(bounds)
        if kind not in ("tight", "zero", "one", "adaptive", "same-slope"):
            raise unknown(kind)
        l, u = bounds.lower, bounds.upper  # noqa: E741 - the field's names
        a, b = self._knee(self.low, l), self._knee(self.high, l)
        least, most = self._clip(l), self._clip(u)
        rise, between = most - least, self._between(bounds)
        left, right = self._crossed(bounds)
        crossed = left | right

        def slope(flat: Tensor | None, low: Tensor, high: Tensor) -> Tensor:
            share = (rise / torch.where(crossed, high - low, 1.0)).clamp(max=1)
            if flat is not None:
                share = share.masked_fill(flat, 0.0)
            return share.masked_fill(between, 1.0)

        flat_low, flat_up, first, last = None, None, l, u
        if a is not None:
            flat_low, first = _choice(left, kind, lambda: u - a > a - l, a, l)
        if b is not None:
            flat_up, last = _choice(right, kind, lambda: b - l > u - b, b, u)
        lower, upper = slope(flat_low, first, u), slope(flat_up, l, last)
        near = l if a is None else a.expand_as(l).clamp(l, u)
        far = u if b is None else b.expand_as(u).clamp(l, u)
        below = torch.minimum(least - lower * near, most - lower * u)
        above = torch.maximum(most - upper * far, least - upper * l)
        eta = self.eta.to(l)
        inner = 1 - eta
        return Lines(eta + inner * lower, inner * below, eta + inner * upper, inner * above)

    def _clip(self, z: Tensor) -> Tensor:
        if self.low is None and self.high is None:
            return z
        return torch.clamp(z, self._knee(self.low, z), self._knee(self.high, z))

    @staticmethod
    def _knee(knee: Tensor | None, like: Tensor) -> Tensor | None:
        return None if knee is None else knee.to(like)

    def _crossed(self, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """Tell which knees lie strictly inside."""

        def inside(knee: Tensor | None) -> Tensor:
            if knee is None:
                return torch.zeros_like(bounds.lower, dtype=torch.bool)
            at = knee.to(bounds.lower)
            return (bounds.lower < at) & (at < bounds.upper)

        return inside(self.low), inside(self.high)

    def _between(self, bounds: Bounds) -> Tensor:
        """Tell which intervals lie between the knees."""
        found = torch.ones_like(bounds.lower, dtype=torch.bool)
        if self.low is not None:
            found &= bounds.lower >= self.low.to(bounds.lower)
        if self.high is not None:
            found &= bounds.upper <= self.high.to(bounds.lower)
        return found


def _choice(
    crossed: Tensor, kind: str, steeper: Callable[[], Tensor], knee: Tensor, end: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Tell where a line is flat for a knee inside, and the point the others rise from or to."""
    if kind == "same-slope":
        return None, end
    if kind in ("tight", "zero"):
        return crossed, end
    if kind == "one":
        return None, torch.where(crossed, knee, end)
    steep = steeper()
    return crossed & ~steep, torch.where(crossed & steep, knee, end)


def ramp(z: Tensor, r: Tensor, eta: Tensor) -> Tensor:
    r"""Return :math:`\eta z + (1 - \eta)\,\mathrm{clip}(z, 0, r)`; one step of a traced graph.

    Shapes: z ``(B, *shape)``; ``r > 0`` and :math:`\eta \in [0, 1]` broadcast to ``shape``.
    """
    if has_torch_function((z, r, eta)):
        found: Tensor = handle_torch_function(ramp, (z, r, eta), z, r, eta)
        return found
    inner = torch.clamp(z, torch.zeros((), dtype=z.dtype, device=z.device), r)
    return inner + eta * (z - inner)


class ParamRamp(nn.Module):
    r"""ParamRamp: :math:`\sigma(z) = \eta z + (1 - \eta)\,\mathrm{clip}(z, 0, r)`.

    Slope 1 between 0 and r and :math:`\eta` outside, with one trainable r for each neuron.
    Source: Lyu et al. 2021, section 5.

    Parameters
    ----------
    shape
        Shape of the values it is applied to, without the batch: (C, H, W) or (N,).
    eta
        The outer slope, in [0, 1]; a buffer, changed by :meth:`set_eta`.
    r
        Initial length of the ramp, for every neuron. ``math.inf`` switches the right part off
        (a leaky ReLU, in which r has no gradient) until ``r`` is filled with numbers.

    Raises
    ------
    ConfigError
        ``eta`` outside [0, 1], or ``r`` below 1e-4, the least this module works with.
    """

    no_weights: ClassVar[tuple[str, ...]] = ("r",)
    r: nn.Parameter
    eta: Tensor

    def __init__(self, shape: Shape, eta: float = 0.0, r: float = 1.0) -> None:
        super().__init__()
        if not r >= LEAST_RANGE:
            raise ConfigError(f"the range r of a ramp must be at least {LEAST_RANGE:g}, not {r}")
        self.r = nn.Parameter(torch.full(tuple(shape), float(r)))
        self.register_buffer("eta", torch.tensor(_slope(eta)))

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(B, *shape)``; an r that a step has pushed below 1e-4 counts as 1e-4."""
        return ramp(z, self.r.clamp(min=LEAST_RANGE), self.eta)

    def set_eta(self, eta: float) -> None:
        """Change the outer slope, as a schedule does."""
        self.eta.fill_(_slope(eta))

    @torch.no_grad()
    def project(self) -> None:
        """Lift r to at least 1e-4; call it after an optimiser step, so that r gets gradients."""
        self.r.clamp_(min=LEAST_RANGE)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows in the brackets."""
        return f"{tuple(self.r.shape)}, eta={float(self.eta):g}"


def _slope(eta: float) -> float:
    if not 0 <= eta <= 1:
        raise ConfigError(f"the outer slope eta of a ramp must lie in [0, 1], not {eta}")
    return float(eta)


@builds(ParamRamp)
def _ramp_module(shape: Shape, module: ParamRamp, z: Value) -> Template:
    return _ramp(shape, None, z, lambda: module.r.clamp(min=LEAST_RANGE), lambda: module.eta)


@builds(ramp)
def _ramp(shape: Shape, module: None, z: Value, r: Live | float, eta: Live | float) -> Template:
    length, slope = live(r), live(eta)
    assert length is not None
    assert slope is not None

    def make() -> Ramp:
        high, outer = length(), slope()
        if not bool((high > 0).all()):
            raise ModelError("a ramp has a range r that is not positive; keep r above zero")
        if not bool(((outer >= 0) & (outer <= 1)).all()):
            raise ModelError("a ramp has an outer slope eta outside [0, 1]; keep eta in [0, 1]")
        return Ramp(outer, torch.zeros_like(high), high)

    return Template((z,), make)


def _cases(generator: torch.Generator) -> list[Case]:
    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    return [
        Case(Ramp(number(0.0), number(0.0), 0.1 + draw(6)), ((6,),)),
        Case(Ramp(number(0.3), number(0.0), 0.1 + draw(2, 3, 3)), ((2, 3, 3),)),
        Case(Ramp(draw(3, 1, 1), -draw(3, 1, 1), 0.1 + draw(3, 1, 1)), ((3, 2, 2),)),
        Case(Ramp(number(0.2), None, number(0.4)), ((5,),)),
        Case(Ramp(number(0.2), number(0.1), number(torch.inf)), ((5,),)),
    ]


register(Entry("ramp", "ParamRamp: eta * z + (1 - eta) * clip(z, 0, r)", _cases))
