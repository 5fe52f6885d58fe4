"""Networks with a counterexample built in: a bump of ReLUs around one point of a safe box.

The safe network's margins are at least 1 on the whole box. Added to the logit of another class is

.. math:: b(x) = \\mathrm{relu}(h - s \\sum_i |x_i - p_i|)

with :math:`|z| = \\mathrm{relu}(z) + \\mathrm{relu}(-z)`. It is 0 but for
:math:`\\|x - p\\|_1 < h / s`, and s is above what the margin can change by, so that it is least
at p, and known there to the last digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from taut.region import Box

CLASSES, LABEL, TARGET = 3, 0, 1
HIDDEN = 4


class Planted(NamedTuple):
    """A network, a box ``eps`` around ``x``, the point p, and the least margin over the box."""

    model: nn.Sequential
    x: Tensor
    eps: float
    point: Tensor
    least: float

    @property
    def box(self) -> Box:
        return Box.around(self.x.double(), self.eps)


def planted(seed: int, inputs: int, width: float, least: float, *, images: bool = False) -> Planted:
    """Build one in float32: ``(inputs,)``, or as a convolution on images ``(1, 4, 4)``.

    The bump is ``width`` wide to either side along an axis. An image's point is one tile of 2 by 2
    pixels four times over, so that a convolution knows it.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    eps = 0.1
    shape = (1, 4, 4) if images else (inputs,)
    tile = 0.3 + 0.4 * torch.rand(4 if images else inputs, generator=generator)
    point = tile.view(2, 2).tile(2, 2).view(1, 4, 4) if images else tile
    away = 2 * torch.rand(shape, generator=generator) - 1
    x = (point + 0.8 * eps * away)[None]
    patch, copies = (4, 4) if images else (inputs, 1)
    first = torch.cat([normal(HIDDEN, patch), torch.eye(patch), -torch.eye(patch)])
    shift = torch.cat([normal(HIDDEN), -tile.double(), tile.double()])
    safe = normal(HIDDEN, HIDDEN * copies) / (2 * copies)
    last = 0.3 * normal(CLASSES, HIDDEN)
    entry = nn.Conv2d(1, len(first), 2, 2) if images else nn.Linear(inputs, len(first))
    model = nn.Sequential(
        entry,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(len(first) * copies, HIDDEN + 1),
        nn.ReLU(),
        nn.Linear(HIDDEN + 1, CLASSES),
    ).double()
    model.requires_grad_(False)
    entry.weight.copy_(first.view_as(entry.weight))
    entry.bias.copy_(shift)
    model[3].weight.zero_()
    # Flattened, the numbers of one channel of a convolution stand side by side.
    model[3].weight[:HIDDEN, : HIDDEN * copies] = safe
    model[3].bias[:HIDDEN] = normal(HIDDEN)
    model[5].weight[:, :HIDDEN] = last
    model[5].weight[:, HIDDEN] = 0.0
    box = Box.around(x.double(), eps)
    model[5].bias.zero_()
    low, slope = _safe_margin(model, box)
    model[5].bias[LABEL] = 1.0 - low
    logits = model(point[None].double())[0]
    here = float(logits[LABEL] - logits[TARGET])
    height = here - least
    steep = height / width
    assert steep > slope  # the margin is least at the point
    model[3].weight[HIDDEN, HIDDEN * copies :] = -steep
    model[3].bias[HIDDEN] = height
    model[5].weight[TARGET, HIDDEN] = 1.0
    return Planted(model.float().eval(), x, eps, point, least)


def _safe_margin(model: nn.Sequential, box: Box) -> tuple[float, float]:
    """Return a lower bound of the margins, and how much they change by a step along one input."""
    center, radius = box.center, box.radius
    for layer in model[:-1]:
        if isinstance(layer, nn.ReLU):
            low, high = layer(center - radius), layer(center + radius)
            center, radius = (low + high) / 2, (high - low) / 2
        elif isinstance(layer, nn.Flatten):
            center, radius = layer(center), layer(radius)
        else:
            sizes = {"weight": layer.weight.abs(), "bias": torch.zeros_like(layer.bias)}
            center, radius = layer(center), functional_call(layer, sizes, (radius,))
    end = model[-1].weight
    rows = end[LABEL] - torch.cat([end[:LABEL], end[LABEL + 1 :]])
    low = center @ rows.T - radius @ rows.abs().T
    steps = rows.abs() @ model[3].weight.abs()
    return float(low.amin()), float(steps.sum(1).amax() * model[0].weight.abs().amax())
