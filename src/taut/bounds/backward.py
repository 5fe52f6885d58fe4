r"""Backward substitution: one engine for every bound that pulls rows to the input.

A row :math:`a` at a node stands for the linear form :math:`a z`. Going back through
an affine node replaces it by :math:`a W` (plus a constant); through an activation
it takes the lower line where the coefficient is positive and the upper one where it
is negative. What is left at the input, or at a node the walk stops at, is minimised
over its box. Source: Zhang et al. 2018 (CROWN); methods.md 4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taut.graph.network import Network, Node
from taut.operators.base import Activation, Affine
from taut.operators.forms import Interval, Lines
from taut.property import margin_rows, pad_true_class

if TYPE_CHECKING:
    from taut.bounds.interval import Intermediate

_threshold_backward = torch.ops.aten.threshold_backward.default


def lower(
    net: Network,
    start: int,
    rows: Tensor,
    inter: Intermediate,
    *,
    lines: str | None,
    samples: Tensor | None = None,
) -> Tensor:
    r"""Return lower bounds of ``rows`` applied to node ``start``, shape ``(N, R)``.

    Parameters
    ----------
    net
        The network.
    start
        Index of the node the rows speak about.
    rows
        Coefficients ``(N, R, *node shape)``; N is the batch, or the length of ``samples``.
    inter
        Bounds of the nodes before; those of the activations' inputs give the lines.
    lines
        Line family; ``None`` stops at the first activations and concretises on their
        output intervals, which is elided IBP.
    samples
        Which image each of the N groups of rows belongs to; ``None`` means one group
        an image, in order.

    """
    pending: dict[int, Tensor] = {start: rows}
    total: Tensor | None = None
    for node in reversed(net.nodes[: start + 1]):
        form = pending.pop(node.index, None)
        if form is None:
            continue
        operator = node.operator
        if operator is None or (lines is None and isinstance(operator, Activation)):
            box = inter.intervals[node.index]
            total = _plus(total, concretise(form, _pick_interval(box, samples)))
        elif isinstance(operator, Activation):
            assert lines is not None
            source = node.inputs[0]
            chosen = operator.lines(inter.at(source), lines)
            form, constant = relax(form, chosen if samples is None else chosen[samples])
            total = _plus(total, constant)
            pending[source] = _plus(pending.get(source), form)
        else:
            assert isinstance(operator, Affine)
            total = _through_affine(net, node, operator, form, pending, total)
    assert total is not None
    return total


def _through_affine(
    net: Network,
    node: Node,
    operator: Affine,
    form: Tensor,
    pending: dict[int, Tensor],
    total: Tensor | None,
) -> Tensor | None:
    """Pull a form through an affine node into ``pending``; return the constant so far."""
    groups, count = form.shape[:2]
    flat = form.flatten(0, 1)
    constant = operator.constant(flat)
    if constant is not None:
        total = _plus(total, constant.view(groups, count))
    shapes = [net.nodes[i].shape for i in node.inputs]
    for source, pulled in zip(node.inputs, operator.transpose(flat, shapes), strict=True):
        pending[source] = _plus(pending.get(source), pulled.unflatten(0, (groups, count)))
    return total


def _plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _pick_interval(box: Interval, samples: Tensor | None) -> Interval:
    return box if samples is None else Interval(box.center[samples], box.radius[samples])


def concretise(form: Tensor, box: Interval) -> Tensor:
    r"""Return the exact minimum of each row over a box, ``a c - |a| r``, shape ``(N, R)``."""
    flat = form.flatten(2)
    return _dot(flat, box.center) - _dot(flat.abs(), box.radius)


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """Return ``rows @ vector`` per group: ``(N, R, n)`` with ``(N, *shape)`` to ``(N, R)``."""
    return torch.bmm(rows, vector.flatten(1).unsqueeze(2)).squeeze(2)


def relax(form: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    r"""Pull a form through an activation enclosed by ``lines``.

    .. math:: a' = a^+ s_L + a^- s_U, \qquad c = a^+ t_L + a^- t_U

    Shapes: form ``(N, R, *shape)``; result the same, and ``(N, R)``.
    """
    shape = form.shape
    pulled, constant = _Relax.apply(
        form.flatten(2),
        lines.lower_slope.flatten(1),
        None if lines.lower_intercept is None else lines.lower_intercept.flatten(1),
        lines.upper_slope.flatten(1),
        None if lines.upper_intercept is None else lines.upper_intercept.flatten(1),
    )
    return pulled.view(shape), constant


class _Relax(torch.autograd.Function):
    """The element-wise core of backward substitution, ``(N, R, n)`` rows at a time.

    With ``m = max(-a, 0)`` the map is ``a s_L - m (s_U - s_L)``: two passes and no
    masks. Only what the gradients asked for need is kept.
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
        minus = form.neg().relu_()
        step = up_slope - low_slope
        pulled = (form * low_slope.unsqueeze(1)).addcmul_(minus, step.unsqueeze(1), value=-1)
        constant = form.new_zeros(form.shape[:2])
        if low_shift is not None:
            constant = constant + _dot(form + minus, low_shift)
        if up_shift is not None:
            constant = constant - _dot(minus, up_shift)
        wants_low = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(
            minus, low_slope, step, low_shift, up_shift, form if wants_low else None
        )
        return pulled, constant

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_form, by_constant = grads
        minus, low_slope, step, low_shift, up_shift, form = ctx.saved_tensors
        needs = ctx.needs_input_grad
        result: list[Tensor | None] = [None] * 5
        outer = by_constant.unsqueeze(2)
        if needs[0]:
            # d a' / d a is s_L for positive and s_U for negative coefficients; the
            # threshold keeps the difference only where the coefficient was negative.
            change = by_form * step.unsqueeze(1)
            if up_shift is not None:
                change = change.addcmul_(outer, up_shift.unsqueeze(1))
            if low_shift is not None:
                change = change.addcmul_(outer, low_shift.unsqueeze(1), value=-1)
            change = _threshold_backward(change, minus, 0)
            result[0] = change.addcmul_(by_form, low_slope.unsqueeze(1))
            if low_shift is not None:
                result[0].addcmul_(outer, low_shift.unsqueeze(1))
        if needs[3]:
            result[3] = (by_form * minus).sum(1).neg_()
        if needs[4]:
            result[4] = torch.bmm(by_constant.unsqueeze(1), minus).squeeze(1).neg_()
        if needs[1] or needs[2]:
            plus = form + minus
            if needs[1]:
                result[1] = (by_form * plus).sum(1)
            if needs[2]:
                result[2] = torch.bmm(by_constant.unsqueeze(1), plus).squeeze(1)
        return tuple(result)


def margins(
    net: Network, inter: Intermediate, y: Tensor, lines: str = "adaptive"
) -> Tensor:
    """Return margin lower bounds ``(B, K)`` by full substitution, +inf at the true class.

    ``inter`` decides the method: with IBP's bounds it is CROWN-IBP, with bounds refined
    by substitution CROWN. The last layer is merged with the margins by construction.
    """
    rows = margin_rows(y, net.classes, inter.intervals[-1].center)
    return pad_true_class(lower(net, net.output.index, rows, inter, lines=lines), y)
