"""A small net, its batch, and the losses of the literature written out in plain PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taut.attacks.starts import uniform
from taut.graph import Graph, trace
from taut.training import Losses, Progress, TrainingAttack

EPS = 0.1
SHAPE = (1, 2, 2)


def mlp(seed: int = 5, norm: bool = False, bend: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(4, 6)]
    if norm:
        layers.append(nn.BatchNorm1d(6))
    layers += [bend(), nn.Linear(6, 5), bend(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


def traced(model: nn.Module) -> Graph:
    return trace(model, SHAPE)


def batch(count: int = 7, seed: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0  # so that the clip to [0, 1] matters
    return x, torch.arange(count) % 3


def at(
    eps: float = EPS,
    eps_max: float = 0.2,
    step: int = 9,
    natural_only: bool = False,
    count: int = 7,
    **more: Any,
) -> Progress:
    seeds = torch.arange(count) + 100
    return Progress(step, 2, eps, eps_max, natural_only, seeds=seeds, **more)


def ends(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp(min=0), (x + eps).clamp(max=1)


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """log sum_j exp(z_j - z_y), one per image."""
    own = logits[torch.arange(len(y)), y]
    return torch.log(torch.exp(logits - own[:, None]).sum(1))


def affine_layers(model: nn.Sequential, points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(W, b) of each layer, a batch norm folded in with the statistics of ``points``."""
    layers: list[tuple[Tensor, Tensor]] = []
    value = points.flatten(1)
    for module in list(model)[1:]:
        if isinstance(module, nn.Linear):
            layers.append((module.weight, module.bias))
            value = value @ module.weight.T + module.bias
        elif isinstance(module, nn.BatchNorm1d):
            mean, var = value.mean(0), value.var(0, unbiased=False)
            gain = module.weight / torch.sqrt(var + module.eps)
            weight, bias = layers.pop()
            layers.append((gain[:, None] * weight, gain * (bias - mean) + module.bias))
            value = gain * (value - mean) + module.bias
        else:
            value = value.relu()
    return layers


def logits_of(layers: Sequence[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
    value = points.flatten(1)
    for weight, bias in layers[:-1]:
        value = (value @ weight.T + bias).relu()
    return value @ layers[-1][0].T + layers[-1][1]


def intervals(
    layers: Sequence[tuple[Tensor, Tensor]], low: Tensor, high: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Bounds of what each affine layer gives, the logits last."""
    found = []
    low, high = low.flatten(1), high.flatten(1)
    for weight, bias in layers:
        up, down = weight.clamp(min=0).T, weight.clamp(max=0).T
        below, above = low @ up + high @ down + bias, high @ up + low @ down + bias
        found.append((below, above))
        low, high = below.relu(), above.relu()
    return found


def ibp_margins(
    layers: Sequence[tuple[Tensor, Tensor]], low: Tensor, high: Tensor, y: Tensor
) -> Tensor:
    """Lower bounds of z_y - z_j, last layer merged; zero at the true class, ``(B, K)``."""
    below, above = intervals(layers, low, high)[-2]
    weight, bias = layers[-1]
    row = weight[y][:, None, :] - weight[None]
    constant = bias[y][:, None] - bias[None]
    positive = (row.clamp(min=0) * below.relu()[:, None]).sum(2)
    return positive + (row.clamp(max=0) * above.relu()[:, None]).sum(2) + constant


def ibp_losses(
    layers: Sequence[tuple[Tensor, Tensor]], low: Tensor, high: Tensor, y: Tensor
) -> Tensor:
    return torch.log(torch.exp(-ibp_margins(layers, low, high, y)).sum(1))


def attacked_points(
    model: nn.Sequential, x: Tensor, y: Tensor, eps: float, attack: TrainingAttack, seeds: Tensor
) -> Tensor:
    """Signed ascent on the cross-entropy in evaluation mode; the worst iterate."""
    low, high = ends(x, eps * attack.scale)
    norms = [m for m in model if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.eval()
    point = low + uniform(seeds, 0, low) * (high - low)
    best, worst = point, torch.full((len(x),), -torch.inf, dtype=x.dtype)
    for step in range(attack.steps + 1):
        point = point.detach().requires_grad_()
        losses = cross_entropies(model(point), y)
        higher = losses.detach() > worst
        best = torch.where(higher[:, None, None, None], point.detach(), best)
        worst = torch.where(higher, losses.detach(), worst)
        if step < attack.steps:
            (slope,) = torch.autograd.grad(losses.sum(), point)
            moved = point.detach() + (attack.step or 2.5 / attack.steps) * (high - low) / 2 * (
                slope.sign()
            )
            point = torch.minimum(torch.maximum(moved, low), high)
    for norm in norms:
        norm.train()
    return best


def assert_same_loss(
    found: Tensor, wanted: Tensor, model: nn.Module, tolerance: float = 1e-10
) -> None:
    """Values and gradients with respect to all parameters."""
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(found, parameters, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(wanted, parameters, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def in_shares(
    work: Callable[[slice, Callable[[Tensor], Tensor]], Losses], shares: Sequence[slice], total: int
) -> list[Losses]:
    """Run ``work`` on each share at once; ``average`` waits for all and weighs by images."""
    barrier = threading.Barrier(len(shares), timeout=20)
    slots: list[Tensor] = [torch.empty(0)] * len(shares)
    answers: list[Any] = [None] * len(shares)

    def one(rank: int) -> None:
        def average(value: Tensor) -> Tensor:
            slots[rank] = value * ((shares[rank].stop - shares[rank].start) / total)
            barrier.wait()
            mean = torch.stack(list(slots)).sum(0)
            barrier.wait()
            return mean

        answers[rank] = work(shares[rank], average)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(answer, Losses) for answer in answers)
    return answers
