"""The element-wise core of backward substitution: rows of linear forms through an activation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from taut.operators.cache import pieces
from taut.operators.forms import Lines

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def relax(
    form: Tensor, lines: Lines, axis: int | None = None, *, own: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Pull a form through an activation enclosed by ``lines``.

    .. math:: a' = a^+ s_L + a^- s_U, \qquad c = a^+ t_L + a^- t_U

    Shapes: form ``(N, R, *shape)``; result the same, and ``(N, R)``. An activation that
    takes ``axis`` together gives the result that axis back. Without gradients a form that is
    nobody else's (``own``) is overwritten.
    """
    if axis is not None:
        return _spread(form, lines, axis)
    if own and not torch.is_grad_enabled():
        return form, _relax_in_place(form, lines)
    pulled, constant = _Relax.apply(  # type: ignore[no-untyped-call]
        form, lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept
    )
    return pulled, constant


def _spread(form: Tensor, lines: Lines, axis: int) -> tuple[Tensor, Tensor]:
    """Pull a form through an activation that takes an axis together."""
    above = form.clamp(min=0)
    below = form - above
    pulled = above.unsqueeze(axis + 2) * lines.lower_slope.unsqueeze(1)
    pulled = pulled + below.unsqueeze(axis + 2) * lines.upper_slope.unsqueeze(1)
    constant = form.new_zeros(form.shape[:2])
    if lines.lower_intercept is not None:
        constant = constant + dot(above, lines.lower_intercept)
    if lines.upper_intercept is not None:
        constant = constant + dot(below, lines.upper_intercept)
    return pulled, constant


def _relax_in_place(form: Tensor, lines: Lines) -> Tensor:
    """Overwrite a form with what it is before the activation; return the constant."""
    low, up_shift, low_shift = lines.lower_slope, lines.upper_intercept, lines.lower_intercept
    step = lines.upper_slope - low
    constant = form.new_zeros(form.shape[:2])
    parts = pieces(form)
    buffer = torch.empty_like(form[parts[0]]) if parts else form
    for part in parts:
        a = form[part]
        below = torch.clamp(a, max=0, out=buffer[: len(a)])
        if up_shift is not None:
            constant[part] += dot(below, up_shift[part])
        if low_shift is not None:
            constant[part] += dot(a - below, low_shift[part])
        below.mul_(step[part].unsqueeze(1))
        torch.addcmul(below, a, low[part].unsqueeze(1), out=a)
    return constant


class _Relax(torch.autograd.Function):
    """The element-wise core of backward substitution, ``(N, R, *shape)`` rows at a time.

    With ``m = min(a, 0)`` the map is ``a s_L + m (s_U - s_L)``, without masks. On the
    CPU it walks the batch in pieces that stay in cache through all passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        form: Tensor,
        low_slope: Tensor,
        low_shift: Tensor | None,
        up_slope: Tensor,
        up_shift: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        step = up_slope - low_slope
        pulled = torch.empty_like(form)
        constant = form.new_zeros(form.shape[:2])
        for part in pieces(form):
            a = form[part]
            out = torch.clamp(a, max=0, out=pulled[part])
            if up_shift is not None:
                constant[part] += dot(out, up_shift[part])
            if low_shift is not None:
                constant[part] += dot(a - out, low_shift[part])
            out.mul_(step[part].unsqueeze(1)).addcmul_(a, low_slope[part].unsqueeze(1))
        ctx.save_for_backward(form, low_slope, step, low_shift, up_shift)
        return pulled, constant

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        form, low_slope, step, low_shift, up_shift = ctx.saved_tensors
        by_form, by_constant = grads
        needs = ctx.needs_input_grad
        results = [
            torch.empty_like(like) if need and like is not None else None
            for need, like in zip(
                needs, (form, low_slope, low_shift, low_slope, up_shift), strict=True
            )
        ]
        for part in pieces(form):
            _relax_backward(
                form[part],
                by_form[part],
                by_constant[part],
                _Slopes(low_slope[part], step[part], _part(low_shift, part), _part(up_shift, part)),
                [_part(t, part) for t in results],
            )
        return tuple(results)


class _Slopes(NamedTuple):
    """The lines of one piece of the batch, with a row axis to broadcast over."""

    low: Tensor
    step: Tensor
    low_shift: Tensor | None
    up_shift: Tensor | None


def _relax_backward(
    form: Tensor,
    by_form: Tensor,
    by_constant: Tensor,
    lines: _Slopes,
    results: list[Tensor | None],
) -> None:
    """Write the gradients of one piece into ``results`` (form, sL, tL, sU, tU)."""
    below = form.clamp(max=0)
    outer = by_constant.view(*by_constant.shape, *[1] * (form.dim() - 2))
    to_form, to_low, to_low_shift, to_up, to_up_shift = results
    if to_up is not None:
        torch.sum(by_form * below, 1, out=to_up)
    if to_up_shift is not None:
        _weighted(by_constant, below, to_up_shift)
    if to_low is not None or to_low_shift is not None:
        above = form - below
        if to_low is not None:
            torch.sum(by_form * above, 1, out=to_low)
        if to_low_shift is not None:
            _weighted(by_constant, above, to_low_shift)
    if to_form is not None:
        # The gradient is s_L for positive and s_U for negative coefficients: the
        # difference counts only where the coefficient was negative.
        torch.mul(by_form, lines.step.unsqueeze(1), out=to_form)
        if lines.up_shift is not None:
            to_form.addcmul_(outer, lines.up_shift.unsqueeze(1))
        if lines.low_shift is not None:
            to_form.addcmul_(outer, lines.low_shift.unsqueeze(1), value=-1)
        _threshold_backward(to_form, below.neg_(), 0, grad_input=to_form)
        to_form.addcmul_(by_form, lines.low.unsqueeze(1))
        if lines.low_shift is not None:
            to_form.addcmul_(outer, lines.low_shift.unsqueeze(1))


def _weighted(weights: Tensor, rows: Tensor, out: Tensor) -> None:
    """Write the sum of rows ``(N, R, *shape)`` with weights ``(N, R)`` to ``out (N, *shape)``."""
    if rows.dim() == 5:  # in the order in which coefficients of images lie
        rows, out = rows.permute(0, 1, 3, 4, 2), out.permute(0, 2, 3, 1)
    found = torch.bmm(weights.unsqueeze(1), rows.flatten(2))
    out.copy_(found.view(out.shape))


def _part(tensor: Tensor | None, part: slice) -> Tensor | None:
    return None if tensor is None else tensor[part]


def dot(form: Tensor, vector: Tensor) -> Tensor:
    """Return ``form . vector`` per row: ``(N, R, *shape)`` and ``(N, *shape)`` to ``(N, R)``."""
    if form.dim() == 5:  # coefficients of images lie channels-last; walk them in that order
        form, vector = form.permute(0, 1, 3, 4, 2), vector.permute(0, 2, 3, 1)
    return torch.bmm(form.flatten(2), vector.flatten(1).unsqueeze(2)).squeeze(2)
