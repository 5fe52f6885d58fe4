"""The named methods with two objectives, at their first joint step, against the formulas."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from test_training_grid import batch, by_hand, mlp
from torch import Tensor, nn

from taut.graph import trace
from taut.region import Box
from taut.training import METHODS, Bisector, GridPoint, Progress, SmallBox
from taut.training.region import Batch

EPS, EPS_MAX = 0.06, 0.1


def at(count: int) -> Progress:
    return Progress(
        step=30, epoch=2, eps=EPS, eps_max=EPS_MAX, seeds=torch.arange(count), memory={}
    )


def small_box_loss(
    model: nn.Sequential, x: Tensor, y: Tensor, point: Tensor, ratio: float
) -> Tensor:
    """CE of elided interval margins over [x' - tau, x' + tau], one image at a time."""
    low, high = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
    tau = ratio * (high - low) / 2
    centre = torch.minimum(torch.maximum(point, low + tau), high - tau)
    total = torch.zeros((), dtype=x.dtype)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    for c, t, label in zip(centre.flatten(1), tau.flatten(1), y.tolist(), strict=True):
        a, b = c - t, c + t
        for layer in linear[:-1]:
            plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            a, b = plus @ a + minus @ b + layer.bias, plus @ b + minus @ a + layer.bias
            a, b = a.relu(), b.relu()
        row = linear[-1].weight[label] - linear[-1].weight
        margin = row.clamp(min=0) @ a + row.clamp(max=0) @ b
        margin = margin + linear[-1].bias[label] - linear[-1].bias
        total = total + torch.logsumexp(-margin, 0)  # the true class contributes exp(0)
    return total / len(x)


@pytest.mark.parametrize("name", ["adv-ibp", "adv-crown-ibp", "adv-sabr"])
def test_the_first_joint_step_is_the_papers(name: str) -> None:
    model = mlp(torch.float64)
    x, y = batch(torch.float64)
    method = cast(GridPoint, METHODS[name].method)
    bisector = cast(Bisector, method.combination)
    graph = trace(model, (1, 2, 2))
    ball = Box.around(x, EPS)
    attacked = bisector.attack.points(Batch(graph, x, y), ball, at(len(x)))
    adversarial = F.cross_entropy(model(attacked), y)
    if name == "adv-sabr":
        region = cast(SmallBox, method.region)
        point = region.attack.points(Batch(graph, x, y), ball, at(len(x)))
        robust = small_box_loss(model, x, y, point, region.ratio)
    else:
        beta = 1.0 - EPS / EPS_MAX if name == "adv-crown-ibp" else 0.0
        robust = by_hand(model, x, y, EPS, 0.0, beta, clip=True)
    parameters = list(model.parameters())
    a = torch.cat([g.flatten() for g in torch.autograd.grad(adversarial, parameters)])
    b = torch.cat([g.flatten() for g in torch.autograd.grad(robust, parameters)])
    product, va, vb = float(a @ b), float(a.norm()), float(b.norm())
    if product > 0:
        d = a / va + b / vb
        gamma = 0.5 * float((a + b) @ d) / float(d @ d)
        on_adversarial, on_robust = gamma / va, gamma / vb
    else:
        assert bisector.threshold_at(30.0) > 0
        on_adversarial, on_robust = 1.0, -product / vb**2
    found = method.loss(graph, x, y, at(len(x))).total
    wanted = on_adversarial * adversarial + on_robust * robust
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-9, atol=0.0)
    found.backward()
    gradient = torch.cat([cast(Tensor, p.grad).flatten() for p in parameters])
    torch.testing.assert_close(gradient, on_adversarial * a + on_robust * b, rtol=1e-8, atol=1e-10)
