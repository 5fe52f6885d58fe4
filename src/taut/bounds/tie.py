r"""Linear constraints that tie an activation's outputs to its inputs, and what they add to a walk.

Where :math:`P z + Q y \le r` holds of an activation y = f(z), every :math:`\mu \ge 0` gives

.. math:: a y \ge a y + \mu (P z + Q y - r) = (a + \mu Q) y + \mu P z - \mu r,

so a walk adds :math:`\mu Q` to its rows before it takes the lines of f and :math:`\mu P` after,
and the rows that the lines see are others. With :math:`\mu = 0` nothing changes.
Source: Zhang et al. 2022 (GCP-CROWN), theorem 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from taut.bounds.form import Form
from taut.operators.forms import Lines


@dataclass(frozen=True, eq=False)
class Facets:
    """Constraints ``P z + Q y <= r`` on pairs of neurons of one activation, F an image.

    Attributes
    ----------
    neurons
        The two neurons of each, flat positions in the activation, int64 ``(B, F, 2)``.
    before
        P, ``(B, F, 2)``.
    after
        Q, ``(B, F, 2)``.
    limit
        r, ``(B, F)``.
    """

    neurons: Tensor
    before: Tensor
    after: Tensor
    limit: Tensor

    def __getitem__(self, index: Tensor) -> Facets:
        return Facets(*(getattr(self, field.name)[index] for field in fields(self)))

    def some(self, index: Tensor) -> Facets:
        """Return some of the constraints of each image, ``index (B, n)``."""
        pair = index.unsqueeze(2).expand(-1, -1, 2)
        return Facets(
            self.neurons.gather(1, pair),
            self.before.gather(1, pair),
            self.after.gather(1, pair),
            self.limit.gather(1, index),
        )

    @property
    def present(self) -> Tensor:
        """Which images have any, a boolean ``(B,)``."""
        return (self.after != 0).flatten(1).any(1)

    @classmethod
    def none(cls, batch: int, like: Tensor) -> Facets:
        """Return no constraints for a number of images."""
        blank = like.new_zeros(batch, 0, 2)
        return cls(blank.long(), blank, blank, blank[..., 0])

    @classmethod
    def joined(cls, parts: list[Facets]) -> Facets:
        """Return those of several lots of images; images with fewer get empty constraints."""
        most = max(part.limit.shape[1] for part in parts)
        columns = []
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            columns.append(torch.cat([_lengthened(value, most) for value in values]))
        return cls(*columns)

    def tie(self, multipliers: Tensor) -> Tie:
        """Return what the constraints add to a row of each image, ``multipliers (B, F)`` times."""
        each = multipliers.unsqueeze(2)
        return Tie(
            self.neurons.flatten(1),
            (each * self.after).flatten(1),
            (each * self.before).flatten(1),
            -(multipliers * self.limit).sum(1, keepdim=True),
        )


@dataclass(frozen=True, eq=False)
class Tie:
    """What is added to rows ``(N, 1, ...)`` of an activation: at M neurons, ``(N, M)`` each.

    ``outputs`` before its lines, ``inputs`` after them, and a ``constant (N, 1)``.
    """

    neurons: Tensor
    outputs: Tensor
    inputs: Tensor
    constant: Tensor


@dataclass(frozen=True, eq=False)
class TiedLines(Lines):
    """Lines of an activation, for rows to which ``tie`` adds something."""

    tie: Tie


def tied(lines: Lines, tie: Tie) -> TiedLines:
    """Return lines with a tie."""
    return TiedLines(
        lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept, tie
    )


def plus(form: Form, neurons: Tensor, values: Tensor) -> Form:
    """Return a dense form ``(N, 1, *shape)`` with ``values (N, M)`` added at some neurons."""
    assert form.window is None
    rows = form.rows
    if rows.dim() == 5:  # coefficients of images lie channels-last: stay in that order
        channels, pixels = rows.shape[2], rows.shape[3] * rows.shape[4]
        rows = rows.permute(0, 1, 3, 4, 2)
        neurons = neurons % pixels * channels + neurons // pixels
    flat = rows.flatten(1).scatter_add(1, neurons, values).view(rows.shape)
    return Form(flat.permute(0, 1, 4, 2, 3) if rows.dim() == 5 else flat, own=True)


def _lengthened(value: Tensor, count: int) -> Tensor:
    missing = value.new_zeros(len(value), count - value.shape[1], *value.shape[2:])
    return torch.cat([value, missing], 1)
