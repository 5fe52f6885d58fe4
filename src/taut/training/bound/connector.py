"""The gradient connector of TAPS: from a point inside a box to the box's ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Connector(torch.autograd.Function):
    """The identity of points, whose gradient goes to the ends of their box."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, lower: Tensor, upper: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(points, lower, upper)
        ctx.threshold = threshold
        return points.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        points, lower, upper = ctx.saved_tensors
        to_lower, to_upper = shares(points, lower, upper, ctx.threshold)
        (by_point,) = grads
        return None, (by_point * to_lower).sum(1), (by_point * to_upper).sum(1), None


def connect(points: Tensor, lower: Tensor, upper: Tensor, threshold: float) -> Tensor:
    r"""Return ``points`` with the rectified linear gradient with respect to their box's ends.

    With :math:`w = u - l` and the threshold c

    .. math::
        \frac{\partial x}{\partial u} := \max\Bigl(0,\ 1 - \frac{u - x}{c w}\Bigr), \qquad
        \frac{\partial x}{\partial l} := \max\Bigl(0,\ 1 - \frac{x - l}{c w}\Bigr)

    That is no derivative of the values, which stay what they are. With c = 0 a point moves with
    the ends it lies on, with c = 1 as a fixed mix of both does; in a box of no width half with
    each end.

    Parameters
    ----------
    points
        Shape ``(B, R, *shape)``, R points in each box; without a gradient of their own.
    lower, upper
        Ends of the boxes, ``(B, *shape)``.
    threshold
        c in [0, 1].

    References
    ----------
    Mao et al., *Connecting certified and adversarial training* (2023), Sec. 3.

    """
    found: Tensor = _Connector.apply(points, lower, upper, threshold)  # type: ignore[no-untyped-call]
    return found


def shares(points: Tensor, lower: Tensor, upper: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the derivatives that :func:`connect` assigns, each of the shape of ``points``."""
    low, high = lower.unsqueeze(1), upper.unsqueeze(1)
    reach = threshold * (high - low)
    far = reach > torch.finfo(reach.dtype).tiny
    length = torch.where(far, reach, 1.0)

    def share(distance: Tensor) -> Tensor:
        return torch.where(far, 1.0 - distance / length, (distance <= 0).to(distance)).clamp(0, 1)

    point = high == low
    half = torch.full_like(points, 0.5)
    return (
        torch.where(point, half, share(points - low)),
        torch.where(point, half, share(high - points)),
    )
