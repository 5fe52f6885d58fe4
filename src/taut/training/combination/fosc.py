"""How far an attack is from a first-order optimum of its box."""

from __future__ import annotations

from torch import Tensor

from taut.region import Box


def clipped_fosc(point: Tensor, box: Box, gradient: Tensor) -> Tensor:
    r"""Return the first-order stationarity of attacked points in their boxes, ``(B,)``.

    .. math:: c(x') = \max_{l \le x \le u} \langle x - x', g\rangle
              = \sum_i \max\bigl((u_i - x'_i) g_i,\ (l_i - x'_i) g_i\bigr)

    At least 0 inside the box, and 0 exactly at a first-order maximum.

    Parameters
    ----------
    point
        Attacked images ``(B, *shape)``.
    box
        The boxes searched.
    gradient
        Gradient of each image's own loss at its point, of the shape of ``point``.

    References
    ----------
    Wang et al., *On the convergence and robustness of adversarial training* (2019), Sec. 3.2,
    for balls that are not clipped.

    """
    up, down = (box.upper - point) * gradient, (box.lower - point) * gradient
    return up.maximum(down).flatten(1).sum(1)


def unclipped_fosc(point: Tensor, x: Tensor, eps: float, gradient: Tensor) -> Tensor:
    r"""Return the stationarity in the whole ball, ``(B,)``, as published.

    .. math:: c(x') = \varepsilon \|g\|_1 - \langle x' - x, g\rangle

    It stays above 0 at an optimum that the pixel range cuts off.
    """
    return (eps * gradient.abs() - (point - x) * gradient).flatten(1).sum(1)
