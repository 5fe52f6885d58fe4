"""The weights of two objectives from the moments of their gradients (AdvIBP)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kappas(NamedTuple):
    """Weights of the adversarial loss, the robust loss and the robust loss's square."""

    adversarial: float
    robust: float
    square: float = 0.0


class Overlap(NamedTuple):
    """What the weights depend on: products of the mean gradients a and b, and mean norms."""

    aa: float
    ab: float
    bb: float
    norm_a: float
    norm_b: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor, norm_a: Tensor, norm_b: Tensor) -> Overlap:
        """Return it from flat mean gradients ``(P,)`` and the means of their norms."""
        return cls(*torch.stack([a @ a, a @ b, b @ b, norm_a, norm_b]).tolist())


def bisecting(o: Overlap) -> Kappas:
    r"""Return the weights where the two agree, :math:`\langle a, b\rangle > 0`.

    .. math:: d = a/v_a + b/v_b,\quad
              \gamma = \tfrac12 \langle a + b, d\rangle / \|d\|^2,\quad
              \kappa_\text{adv} = \gamma/v_a,\ \kappa_\text{rob} = \gamma/v_b

    With :math:`v = \|\cdot\|` the update lies on the bisector of the angle between a and b, as
    long as the mean of their projections on it. A vanishing gradient has weight 0, and then the
    other one has weight 1.
    """
    va, vb = o.norm_a, o.norm_b
    if va == 0.0 or vb == 0.0:  # the norms may be of later steps than the means
        return Kappas(1.0 if va else 0.0, 1.0 if vb else 0.0)
    along = o.aa / va + o.ab / vb + o.ab / va + o.bb / vb
    length = o.aa / va**2 + 2.0 * o.ab / (va * vb) + o.bb / vb**2
    gamma = 0.5 * along / length
    return Kappas(gamma / va, gamma / vb)


def prefer_adversarial(o: Overlap, exact: bool) -> Kappas:
    r"""Return the weights that take b's part out of a: 1 and :math:`-\langle a,b\rangle/v_b^2`.

    With ``exact``, :math:`\|b\|^2` instead of :math:`v_b^2`. A vanishing gradient has weight 0, and
    then the other one has weight 1.
    """
    if o.norm_a == 0.0:
        return Kappas(0.0, 1.0 if o.norm_b else 0.0)
    square = o.bb if exact else o.norm_b**2
    return Kappas(1.0, -o.ab / square if square else 0.0)


def prefer_robust(o: Overlap, exact: bool) -> Kappas:
    r"""Return the weights that take a's part out of b: :math:`-\langle a,b\rangle/v_a^2` and 1.

    ``exact`` and vanishing gradients as in :func:`prefer_adversarial`.
    """
    if o.norm_b == 0.0:
        return Kappas(1.0 if o.norm_a else 0.0, 0.0)
    square = o.aa if exact else o.norm_a**2
    return Kappas(-o.ab / square if square else 0.0, 1.0)
