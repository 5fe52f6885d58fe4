r"""Minima of linear forms over l_1 and l_2 balls, alone or cut by a box.

A point of the ball is :math:`x = x_0 - \operatorname{sign}(a)\, r\, v` with
:math:`v \ge 0`, :math:`\|v\|_p \le 1`, so that with :math:`c = |a| r`

.. math:: \min_x a x = a x_0 - \max_v c v .

A box around :math:`x_0` adds :math:`v \le k`, where :math:`k_i` is the room that pixel i
has on the side it is pushed to, in units of its radius. For the norm's constraint with
multiplier :math:`\lambda \ge 0` the dual function is an upper bound of the maximum, and
the maximum itself at the best multiplier:

.. math::
    \text{l}_1:&\quad \lambda + \sum_i k_i (c_i - \lambda)^+ \\
    \text{l}_2:&\quad c v + \tfrac{\lambda}{2}\,(1 - \|v\|_2^2),
    \qquad v_i = \min(k_i, c_i / \lambda)

What is returned is always this dual value, so that a multiplier that is off by rounding
gives a bound that is sound all the same. Without a box the best multiplier is the dual
norm of c. Sources: Boyd and Vandenberghe 2004, section 5.5 (duality); Dantzig 1957 (the
greedy filling, here for l_1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taut.region.base import dot

_ELEMENTS = 2**17


class Ball(NamedTuple):
    """A ball per group with pixels in one axis: all fields ``(N, pixels)``.

    ``down`` and ``up`` are the room to the lower and to the upper end of the box, in radii
    and at most 1; None where there is no box.
    """

    p: float
    center: Tensor
    radius: Tensor
    down: Tensor | None
    up: Tensor | None

    def room(self, rows: Tensor, groups: slice) -> Tensor | None:
        """Return k, the room on the side on which a pixel lowers the form; shape of ``rows``."""
        if self.down is None or self.up is None:
            return None
        return torch.where(rows > 0, self.down[groups].unsqueeze(1), self.up[groups].unsqueeze(1))


def minimum(rows: Tensor, ball: Ball) -> Tensor:
    """Return the minimum of ``rows`` ``(N, R, pixels)`` over each ball, shape ``(N, R)``.

    Gradients flow to ``rows`` alone: the gradient of a row is its minimiser.
    """
    value: Tensor = _Minimum.apply(rows, ball)  # type: ignore[no-untyped-call]
    return value


class _Minimum(torch.autograd.Function):
    """The minimum, and its minimiser as the gradient; keeps the rows and one number a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ball: Ball) -> Tensor:
        multiplier = rows.new_empty(rows.shape[:2])
        value = dot(rows, ball.center)
        solve = l1_maximum if ball.p == 1 else l2_maximum
        for groups, part in _pieces(rows):
            a = rows[groups, part]
            found = solve(a.abs().mul_(ball.radius[groups].unsqueeze(1)), ball.room(a, groups))
            value[groups, part] -= found.value
            multiplier[groups, part] = found.multiplier
        ctx.save_for_backward(rows, multiplier)
        ctx.ball = ball
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, multiplier = ctx.saved_tensors
        ball: Ball = ctx.ball
        result = torch.empty_like(rows)
        for groups, part in _pieces(rows):
            a = rows[groups, part]
            c = a.abs().mul_(ball.radius[groups].unsqueeze(1))
            fill = _l1_filling if ball.p == 1 else _l2_filling
            v = fill(c, ball.room(a, groups), multiplier[groups, part].unsqueeze(2))
            moved = v.mul_(ball.radius[groups].unsqueeze(1)).mul_(a.sign())
            point = ball.center[groups].unsqueeze(1) - moved
            torch.mul(point, grad[groups, part].unsqueeze(2), out=result[groups, part])
        return result, None


class Maximum(NamedTuple):
    """The dual value and its multiplier, one per row."""

    value: Tensor
    multiplier: Tensor


def l1_maximum(c: Tensor, k: Tensor | None) -> Maximum:
    r"""Return :math:`\max\{c v : 0 \le v \le k,\ \sum_i v_i \le 1\}` for ``c >= 0``.

    Greedy: the largest coefficients take their room until 1 is used up. The multiplier is
    the coefficient at which that happens, 0 when it never does. Shapes ``(..., pixels)``.
    """
    if k is None:
        top = c.amax(-1)
        return Maximum(top, top)
    falling, order = c.sort(dim=-1, descending=True)
    room = k.gather(-1, order)
    used_up = room.cumsum(-1) >= 1
    multiplier = torch.where(used_up, falling, 0).amax(-1, keepdim=True)
    value = falling.sub_(multiplier).relu_().mul_(room).sum(-1)
    multiplier = multiplier.squeeze(-1)
    return Maximum(value + multiplier, multiplier)


def l2_maximum(c: Tensor, k: Tensor | None) -> Maximum:
    r"""Return :math:`\max\{c v : 0 \le v \le k,\ \|v\|_2 \le 1\}` for ``c >= 0``.

    The multiplier solves :math:`g = \sum_i \min(k_i^2, c_i^2 s) = 1` with
    :math:`s = \lambda^{-2}`. As a function of s, g is concave and made of straight pieces:
    Newton's method from :math:`\lambda = \|c\|_2` never passes the solution and ends on it
    after finitely many steps, usually fewer than ten. Where the corner v = k lies in the
    ball it is the solution, with multiplier 0. Shapes ``(..., pixels)``.
    """
    if k is not None:
        c = c.masked_fill(k == 0, 0)  # a pixel that cannot move must not set the scale
    scale = c.amax(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    c = c / scale  # squares neither overflow nor vanish
    multiplier = torch.linalg.vector_norm(c, dim=-1, keepdim=True)
    if k is None:
        norm = (multiplier * scale).squeeze(-1)
        return Maximum(norm, norm)
    multiplier = _l2_multiplier(c, k, multiplier)
    v = _l2_filling(c, k, multiplier)
    value = (c * v).sum(-1, keepdim=True) + multiplier / 2 * (1 - v.square_().sum(-1, keepdim=True))
    return Maximum((value * scale).squeeze(-1), (multiplier * scale).squeeze(-1))


def _l2_multiplier(c: Tensor, k: Tensor, start: Tensor) -> Tensor:
    """Return the multiplier of :func:`l2_maximum` by Newton's method from ``start`` on down."""
    c_squared, k_squared = c.square(), k.square()
    corner = k_squared.masked_fill(c == 0, 0).sum(-1, keepdim=True)
    multiplier = torch.where(corner <= 1, 0, start)
    still = 1 - 4 * torch.finfo(c.dtype).eps
    for _ in range(c.shape[-1] + 1):  # every step but the last fills a pixel's room
        full = c > multiplier * k
        taken = k_squared.masked_fill(~full, 0).sum(-1, keepdim=True)
        free = c_squared.masked_fill(full, 0).sum(-1, keepdim=True)
        left = 1 - taken
        step = torch.where(left > 0, (free / left).abs().sqrt(), multiplier)
        step = torch.minimum(step, multiplier)
        settled = bool((step >= multiplier * still).all())
        multiplier = step
        if settled:
            break
    return multiplier


def _l1_filling(c: Tensor, k: Tensor | None, multiplier: Tensor) -> Tensor:
    """Return a maximiser v; coefficients equal to the multiplier share what is left."""
    above, ties = c > multiplier, c == multiplier
    room = torch.ones_like(c) if k is None else k
    taken = room.masked_fill(~above, 0)
    shared = room.masked_fill(~ties, 0)
    left = (1 - taken.sum(-1, keepdim=True)).clamp_(min=0)
    share = left / shared.sum(-1, keepdim=True).clamp_(min=torch.finfo(c.dtype).tiny)
    return taken.add_(shared.mul_(share.clamp_(max=1)))


def _l2_filling(c: Tensor, k: Tensor | None, multiplier: Tensor) -> Tensor:
    """Return the maximiser ``min(k, c / multiplier)``."""
    v = c / multiplier.clamp(min=torch.finfo(c.dtype).tiny)
    return v if k is None else torch.minimum(v, k)


def _pieces(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Split groups, and the rows of large groups, into pieces that stay in a CPU's cache.

    The search passes over the same numbers many times. One piece elsewhere.
    """
    groups, count, pixels = rows.shape
    if rows.device.type != "cpu":
        yield slice(groups), slice(count)
        return
    fit = max(1, _ELEMENTS // max(1, pixels))
    step = max(1, fit // max(1, count))
    for first in range(0, groups, step):
        for row in range(0, count, fit):
            yield slice(first, first + step), slice(row, row + fit)
