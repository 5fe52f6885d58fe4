"""Shi et al.'s tightness term: intervals that grow from layer to layer cost."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.bounds import Intermediate
from taut.training.regularise.layers import Average, activation_inputs, alone, entry, shared

LEAST_RADIUS = 1e-12
"""Radii are not taken smaller than this."""


def tightness(known: Intermediate, tolerance: float, average: Average = alone) -> Tensor:
    r"""Return the tightness term, a scalar with gradient.

    .. math:: L_\text{tight} = \frac1m \sum_{k=1}^m
              \frac{\max(0,\ \tau - r_0 / r_k)}{\tau}

    :math:`r_k` is the mean radius of the input of activation k of m, over images and neurons;
    :math:`r_0` that of what the first layer with weights reads, which is the input box where
    the model does not normalise. Boxes that shrink cost nothing, and so do images none of whose
    pixels reaches another cell.

    Parameters
    ----------
    known
        Interval bounds of this step, with gradients.
    tolerance
        :math:`\tau > 0`.
    average
        Averages over the processes of a run.

    References
    ----------
    Shi et al., *Fast certified robust training with short warmup* (2021), Sec. 3.3 and its
    published code.

    """
    layers = activation_inputs(known)
    if not layers:
        return known.like.new_zeros(())
    radii = [entry(known).radius.mean(), *(layer.radius.mean() for layer in layers)]
    first, *rest = shared(torch.stack(radii), average).clamp(min=0.0).unbind()
    ratios = first / torch.stack(rest).clamp(min=LEAST_RADIUS)
    # where no pixel straddles an edge of its cells there is nothing that could grow
    ratios = torch.where(first > LEAST_RADIUS, ratios, tolerance)
    return (tolerance - ratios).clamp(min=0.0).mean() / tolerance
