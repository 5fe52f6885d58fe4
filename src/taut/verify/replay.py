"""A counterexample counts only when the original module repeats it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from taut.attacks import evaluating, margin
from taut.region import PIXELS
from taut.verify.boxes import exact_box


@dataclass(frozen=True, eq=False)
class Replay:
    """What the original module says to a candidate counterexample.

    Attributes
    ----------
    point
        The candidate, shape (*shape).
    inside
        Whether it lies in the ball around the original image clipped to the pixel range,
        compared in float64 without tolerance.
    margin
        Its margin :math:`z_y - \\max_{j \\ne y} z_j` in float64.
    margin32
        The same in float32.
    """

    point: Tensor
    inside: bool
    margin: float
    margin32: float

    @property
    def reproduced(self) -> bool:
        """Whether the point is inside and misclassified in both precisions."""
        return self.inside and all(math.isfinite(m) and m < 0 for m in (self.margin, self.margin32))


def replay(
    model: nn.Module,
    x: Tensor,
    label: int,
    eps: float,
    point: Tensor,
    data_range: tuple[float, float] | None = PIXELS,
) -> Replay:
    """Evaluate a candidate counterexample in the module itself, in float64 and float32.

    Nothing of a trace, a bound or an attack takes part: the module's own ``forward`` runs in
    evaluation mode on its weights, converted to either precision, on this one image.

    Parameters
    ----------
    model
        The original module; left as it was.
    x
        The original image, shape (*shape), raw pixels.
    label
        Its true class.
    eps
        Radius in pixel units.
    point
        The candidate, shape (*shape).
    data_range
        Pixel range; None for an unclipped ball.

    Raises
    ------
    RegionError
        ``eps`` is no radius or ``x`` leaves the pixel range.
    """
    weight = next(model.parameters(), x)
    box = exact_box(x.detach()[None].to(weight.device), eps, data_range)
    candidate = point.detach().to(weight.device)[None]
    inside = bool(box.contains(candidate.double()).all())
    with evaluating(model), torch.no_grad():
        double, single = (
            _margin_in(model, candidate, label, dtype) for dtype in (torch.float64, torch.float32)
        )
    return Replay(candidate[0], inside, double, single)


def _margin_in(model: nn.Module, point: Tensor, label: int, dtype: torch.dtype) -> float:
    logits = outputs_in(model, point, dtype)
    return float(margin(logits, torch.tensor([label], device=logits.device)))


def outputs_in(model: nn.Module, point: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a module's own outputs at points ``(B, *shape)``, its weights converted to a type."""
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    outputs: Tensor = functional_call(model, state, (point.to(dtype),))
    return outputs
