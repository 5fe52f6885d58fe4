"""Shi et al.'s balance term: of a layer's stable neurons, some should be active, some not."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.bounds import Intermediate
from taut.training.regularise.layers import Average, activation_inputs, alone, shared

TINY = 1e-12


def balance(known: Intermediate, tolerance: float, average: Average = alone) -> Tensor:
    r"""Return the balance term, a scalar with gradient.

    .. math:: L_\text{relu} = \frac1m \sum_{k=1}^m
              \frac{\max(0, \tau - \rho(a_k)) + \max(0, \tau - \rho(v_k))}{\tau}, \qquad
              \rho(a) = \min(a, 1/a)

    .. math:: a_k = \frac{\overline{c\,1[l>0]}}{-\overline{c\,1[u<0]}}, \qquad
              v_k = \frac{\sum (c-\bar c)^2\,1[l>0]}{\sum (c-\bar c)^2\,1[u<0]}

    with [l, u] the input of activation k, c its centre, and means over all images and neurons
    of the layer, so that how many neurons are active counts as well as how much. Neurons that
    cross zero are on neither side. A layer one of whose sides is empty adds nothing and still
    counts in m.

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
    sides, means = [], []
    for layer in layers:
        bounds, centre = layer.bounds, layer.center
        active, inactive = bounds.lower > 0, bounds.upper < 0
        sides.append((active, inactive))
        kept = [(centre * side).mean() for side in (active, inactive)]
        shares = [side.to(centre.dtype).mean() for side in (active, inactive)]
        means.append(torch.stack([kept[0], -kept[1], centre.mean(), *shares]))
    first = shared(torch.stack(means), average)
    spreads = []
    for layer, masks, middle in zip(layers, sides, first[:, 2], strict=True):
        square = (layer.center - middle).square()
        spreads.append(torch.stack([(square * side).mean() for side in masks]))
    second = shared(torch.stack(spreads), average)
    # An empty side would divide by zero; where() keeps its layer out of value and gradient.
    counted = (first[:, 3:] > 0).all(1) & (second > 0).all(1)
    size = _imbalance(first[:, 0], first[:, 1], counted, tolerance)
    spread = _imbalance(second[:, 0], second[:, 1], counted, tolerance)
    return (size + spread).mean()


def _imbalance(above: Tensor, below: Tensor, counted: Tensor, tolerance: float) -> Tensor:
    """Return ``max(0, tau - rho(above / below)) / tau`` where counted, else 0."""
    ratio = torch.where(counted, above, 1.0) / torch.where(counted, below, 1.0)
    even = torch.minimum(ratio, 1.0 / ratio.clamp(min=TINY))
    return torch.where(counted, (tolerance - even).clamp(min=0.0), 0.0) / tolerance
