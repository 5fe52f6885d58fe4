r"""An upper bound of the cross-entropy by a single row per image (loss fusion).

With :math:`d_j = z_j - z_y` the cross-entropy is :math:`\log e`, :math:`e = \sum_j e^{d_j}`.
On :math:`l_j \le d_j \le u_j` the exponential lies below its chord, so that

.. math::

    e \le \sum_j \bigl(e^{u_j} + k_j (d_j - u_j)\bigr), \qquad
    k_j = \frac{e^{u_j} - e^{l_j}}{u_j - l_j},

one linear form over the logits, whatever the number of classes. Source: Xu et al. 2020,
*Automatic perturbation analysis*, section 3.3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.bounds import backward
from taut.bounds.interval import Intermediate
from taut.bounds.relax import dot
from taut.bounds.tail import merged
from taut.errors import ConfigError
from taut.graph.network import Network
from taut.operators.forms import Bounds
from taut.property import margin_rows, pad_true_class

_SERIES = 0.5
"""Interval widths below which the chord's slope comes from its power series."""

_TERMS = 16

_ROUNDING = 16.0
"""What the sum of the chords may have lost, in units of the last place of its parts."""


def fused_cross_entropy(
    net: Network,
    inter: Intermediate,
    y: Tensor,
    lines: str | backward.Relaxation = "adaptive",
    beta: float = 1.0,
) -> Tensor:
    r"""Bound the cross-entropy over each image's region from above, shape ``(B,)``.

    .. math:: \log\bigl(\beta e_{CROWN} + (1 - \beta) e_{IBP}\bigr), \qquad
        e_{IBP} = \sum_j e^{u_j}

    The ranges of d come from intervals with the last layers merged, so that
    :math:`\log e_{IBP}` is the cross-entropy of elided IBP margins. One backward pass
    bounds the chords' sum, :math:`e_{CROWN}`. Neither of the two is always the smaller.
    Everything is computed relative to :math:`e^s`, :math:`s = \max_j u_j`, so that nothing
    overflows. Gradients flow to the parameters.

    Parameters
    ----------
    net
        The network.
    inter
        Bounds of the layers before; IBP's for training.
    y
        Labels, ``(B,)``.
    lines
        Line family of the backward pass, or a choice of lines of one's own.
    beta
        Weight :math:`\beta` of the backward pass, in [0, 1]; with 0 there is none.

    Raises
    ------
    ConfigError
        ``beta`` is out of range.

    """
    if not 0.0 <= beta <= 1.0:
        raise ConfigError(f"beta must lie in [0, 1]; got {beta}")
    rows = margin_rows(y, net.classes, inter.like)
    margins = elided(net, inter, rows)
    low, up = -margins.upper, -margins.lower
    if beta == 0.0:
        return F.cross_entropy(_with_true_class(up, y), y, reduction="none")
    shift = up.detach().amax(1, keepdim=True).clamp(min=0)
    top, true = (up - shift).exp(), (-shift).exp()
    slope = top * _chord(up - low)
    # d = -rows z, so that the form to be bounded from above is -(slope rows) z.
    least = backward.lower(net, net.output.index, slope.unsqueeze(1) @ rows, inter, lines=lines)
    chords = (top - slope * up).sum(1, keepdim=True) + true - least
    # The sum is at least that of d_y alone, e^0, and its chords' sum no less; only rounding can
    # have brought it below. What rounding may have taken is given back, and no logarithm is
    # taken of what has no digits left.
    parts = top.sum(1, keepdim=True) + (slope * (up.abs() + low.abs())).sum(1, keepdim=True) + true
    lost = _ROUNDING * torch.finfo(parts.dtype).eps * parts.detach()
    crown = torch.maximum(chords + lost, torch.maximum(true, lost))
    mixed = beta * crown + (1.0 - beta) * (top.sum(1, keepdim=True) + true)
    return (mixed.log() + shift).squeeze(1)


def elided(net: Network, inter: Intermediate, rows: Tensor) -> Bounds:
    """Return ranges of rows ``(B, R, K)`` over the logits by intervals, ``(B, R)`` each.

    The rows are merged with the affine layers at the end, as in elided IBP.
    """
    landings, center = merged(net, rows)
    low = up = torch.zeros((), dtype=rows.dtype, device=rows.device) if center is None else center
    for index, form in landings.items():
        if index == 0:
            low = low + inter.region.minimum(form)
            up = up - inter.region.minimum(-form)
            continue
        box = inter.interval(index)
        middle, spread = dot(form, box.center), dot(form.abs(), box.radius)
        low, up = low + (middle - spread), up + (middle + spread)
    return Bounds(low, up)


def _with_true_class(up: Tensor, y: Tensor) -> Tensor:
    """Widen ``(B, K - 1)`` upper bounds of ``z_j - z_y`` to ``(B, K)``, with 0 at the label."""
    padded = pad_true_class(up, y)
    classes = torch.arange(padded.shape[1], device=y.device)
    return padded.masked_fill(y[:, None] == classes, 0.0)


def _chord(width: Tensor) -> Tensor:
    r"""Return the chord's slope relative to the upper end, :math:`(1 - e^{-w}) / w`.

    Never above the exact value: the chord goes through the upper end, and less slope is more
    at the lower one.
    """
    width = width.clamp(min=0)
    small = width < _SERIES
    near, far = torch.where(small, width, 0.0), torch.where(small, 1.0, width)
    series = torch.zeros_like(near)
    for power in reversed(range(_TERMS)):
        series = series * near + (-1.0) ** power / math.factorial(power + 1)
    found = torch.where(small, series, -torch.expm1(-far) / far)
    return found * (1.0 - 4.0 * torch.finfo(found.dtype).eps)
