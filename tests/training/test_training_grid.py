"""Losses of the grid against evaluations written from the formulas, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_helpers import tiny_net

from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.training import (
    IBP,
    METHODS,
    CrownIBP,
    FullBall,
    GridPoint,
    Mix,
    Natural,
    PGDTraining,
    Progress,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-6}


def mlp(dtype: torch.dtype, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(4, 6)]
    if norm:
        layers.append(nn.BatchNorm1d(6))
    layers += [nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).to(dtype)


def batch(dtype: torch.dtype, count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.rand(count, 1, 2, 2, generator=generator, dtype=torch.float64).to(dtype)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0  # so that the clip to [0, 1] matters
    return x, torch.arange(count) % 3


def at(eps: float, eps_max: float = 0.2, natural_only: bool = False) -> Progress:
    return Progress(step=9, epoch=2, eps=eps, eps_max=eps_max, natural_only=natural_only)


# --- the formulas, one image and one wrong class at a time ------------------------------------


def affine_layers(model: nn.Sequential, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(W, b) of each layer, a batch norm folded in with the statistics of ``x``'s batch."""
    layers: list[tuple[Tensor, Tensor]] = []
    value = x
    for module in model:
        if isinstance(module, nn.Linear):
            layers.append((module.weight, module.bias))
        elif isinstance(module, nn.BatchNorm1d):
            mean, var = value.mean(0), value.var(0, unbiased=False)
            gain = module.weight / torch.sqrt(var + module.eps)
            weight, bias = layers.pop()
            layers.append((gain[:, None] * weight, gain * (bias - mean) + module.bias))
            value = gain * (value - mean) + module.bias
            continue
        value = module(value)
    return layers


def interval_layers(
    layers: list[tuple[Tensor, Tensor]], low: Tensor, high: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Pre-activation bounds of every hidden layer over the box [low, high]."""
    found = []
    for weight, bias in layers[:-1]:
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        below = positive @ low + negative @ high + bias
        above = positive @ high + negative @ low + bias
        found.append((below, above))
        low, high = below.relu(), above.relu()
    return found


def ibp_margin(
    layers: list[tuple[Tensor, Tensor]], hidden: list[tuple[Tensor, Tensor]], y: int, j: int
) -> Tensor:
    weight, bias = layers[-1]
    row, constant = weight[y] - weight[j], bias[y] - bias[j]
    low, high = hidden[-1][0].relu(), hidden[-1][1].relu()
    return row.clamp(min=0) @ low + row.clamp(max=0) @ high + constant


def crown_margin(
    layers: list[tuple[Tensor, Tensor]],
    hidden: list[tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    y: int,
    j: int,
) -> Tensor:
    """Back substitution with adaptive lines: slope 1 below where u > |l|, else 0."""
    weight, bias = layers[-1]
    row, constant = weight[y] - weight[j], bias[y] - bias[j]
    for (weight, bias), (below, above) in zip(layers[-2::-1], hidden[::-1], strict=True):
        new = torch.zeros_like(row)
        for i in range(len(row)):
            bottom, top, a = below[i], above[i], row[i]
            if top <= 0:
                continue
            if bottom >= 0:
                new[i] = a
            elif a > 0:
                new[i] = a if top > -bottom else 0.0 * a
            else:
                slope = top / (top - bottom)
                new[i] = a * slope
                constant = constant - a * slope * bottom
        constant = constant + new @ bias
        row = new @ weight
    return constant + row.clamp(min=0) @ low + row.clamp(max=0) @ high


def by_hand(
    model: nn.Sequential, x: Tensor, y: Tensor, eps: float, kappa: float, beta: float, clip: bool
) -> Tensor:
    flat = x.flatten(1)
    layers = affine_layers(model, flat)
    total = torch.zeros((), dtype=x.dtype)
    for image, label in zip(flat, y.tolist(), strict=True):
        low, high = image - eps, image + eps
        if clip:
            low, high = low.clamp(min=0), high.clamp(max=1)
        hidden = interval_layers(layers, low, high)
        robust = torch.zeros((), dtype=x.dtype)
        for j in range(3):
            if j == label:
                continue
            margin = (1 - beta) * ibp_margin(layers, hidden, label, j)
            if beta:
                margin = margin + beta * crown_margin(layers, hidden, low, high, label, j)
            robust = robust + torch.exp(-margin)
        value = image
        for weight, bias in layers[:-1]:
            value = (weight @ value + bias).relu()
        logits = layers[-1][0] @ value + layers[-1][1]
        natural = -torch.log_softmax(logits, 0)[label]
        total = total + kappa * natural + (1 - kappa) * torch.log(1 + robust)
    return total / len(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("bound", "eps", "kappa", "beta"),
    [
        (IBP(), 0.05, 0.875, 0.0),  # kappa 1 -> 0.5 over eps 0 -> 0.2, at a quarter
        (IBP(), 0.2, 0.5, 0.0),
        (CrownIBP(), 0.05, 0.875, 0.75),
        (CrownIBP(), 0.15, 0.625, 0.25),
        (CrownIBP(), 0.2, 0.5, 0.0),
        (CrownIBP(beta_end=1.0), 0.2, 0.5, 1.0),
        (CrownIBP(beta_end=0.5), 0.1, 0.75, 0.75),
    ],
)
def test_loss_and_gradient_equal_the_formula(
    dtype: torch.dtype, norm: bool, bound: IBP | CrownIBP, eps: float, kappa: float, beta: float
) -> None:
    model = mlp(dtype, norm)
    x, y = batch(dtype)
    parameters = list(model.parameters())
    losses = GridPoint(bound=bound).loss(trace(model, (1, 2, 2)), x, y, at(eps))
    expected = by_hand(model, x, y, eps, kappa, beta, clip=True)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(losses.total, expected, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(losses.total, parameters)
    wanted = torch.autograd.grad(expected, parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=20 * tolerance, atol=20 * tolerance)
    assert not any(part.requires_grad for part in losses.parts.values())
    mixed = kappa * losses.parts["natural"] + (1 - kappa) * losses.parts["robust"]
    torch.testing.assert_close(losses.total.detach(), mixed)


def test_an_unclipped_ball_is_the_whole_ball() -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    method = GridPoint(region=FullBall(clip=False))
    found = method.loss(trace(model, (1, 2, 2)), x, y, at(0.1)).total
    expected = by_hand(model, x, y, 0.1, 0.75, 0.0, clip=False)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert bool(found > by_hand(model, x, y, 0.1, 0.75, 0.0, clip=True))


def test_robust_mode_has_no_natural_gradient() -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    method = GridPoint(combination=Mix(0.0, 0.0))
    losses = method.loss(trace(model, (1, 2, 2)), x, y, at(0.1))
    expected = by_hand(model, x, y, 0.1, 0.0, 0.0, clip=True)
    torch.testing.assert_close(losses.total, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(losses.total.detach(), losses.parts["robust"])


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "pgd", "fgsm", "natural"])
def test_a_warm_up_epoch_is_natural_training(name: str) -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    losses = METHODS[name].method.loss(trace(model, (1, 2, 2)), x, y, at(0.0, natural_only=True))
    expected = F.cross_entropy(model(x), y)
    torch.testing.assert_close(losses.total, expected, rtol=1e-12, atol=1e-12)
    assert set(losses.parts) == {"natural"}


def test_at_eps_zero_every_grid_loss_is_the_natural_loss() -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    natural = F.cross_entropy(model(x), y)
    for bound in (IBP(), CrownIBP()):
        losses = GridPoint(bound=bound).loss(trace(model, (1, 2, 2)), x, y, at(0.0))
        torch.testing.assert_close(losses.total, natural, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(losses.parts["robust"], natural.detach())


def test_crown_ibp_without_weight_is_ibp_to_the_bit() -> None:
    model, (x, y) = tiny_net(), batch(torch.float32)
    x = x.repeat(1, 1, 2, 2)
    graph = trace(model, (1, 4, 4))
    crown = GridPoint(bound=CrownIBP(beta_start=9e-6, beta_end=9e-6)).loss(graph, x, y, at(0.1))
    plain = GridPoint().loss(graph, x, y, at(0.1))
    assert torch.equal(crown.total, plain.total)


@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.3, 1.0])
def test_margins_are_infinite_at_the_true_class_and_finite_elsewhere(beta: float) -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    bound = CrownIBP(beta_start=beta, beta_end=beta)
    network = trace(model, (1, 2, 2)).instance()
    margins = bound.bounded(network, Box.around(x, 0.1), y, at(0.1)).margins
    own = F.one_hot(y, 3).bool()
    assert bool((margins[own] == torch.inf).all())
    assert bool(margins[~own].isfinite().all())


def test_robust_loss_bounds_the_loss_at_every_point_of_the_ball() -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    graph = trace(model, (1, 2, 2))
    box = Box.around(x, 0.1)
    generator = torch.Generator().manual_seed(0)
    for bound in (IBP(), CrownIBP(beta_end=1.0)):
        losses = bound.bounded(graph.instance(), box, y, at(0.1)).losses
        for _ in range(200):
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            point = box.lower + noise.round() * (box.upper - box.lower)
            assert bool((F.cross_entropy(model(point), y, reduction="none") <= losses + 1e-9).all())


def test_clean_batch_statistics_carry_gradients_and_running_ones_are_updated() -> None:
    model, (x, y) = mlp(torch.float64, norm=True), batch(torch.float64)
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    before = norm.running_mean.clone()
    GridPoint().loss(trace(model, (1, 2, 2)), x, y, at(0.1)).total.backward()
    values = model[1](x.flatten(1)).detach()
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * values.mean(0))
    assert int(norm.num_batches_tracked) == 1  # one clean pass, none for the bounds


def test_pgd_loss_is_the_loss_of_points_in_the_ball_and_no_smaller_than_the_natural_one() -> None:
    model, (x, y) = mlp(torch.float64), batch(torch.float64)
    graph = trace(model, (1, 2, 2))
    progress = Progress(
        step=0, epoch=1, eps=0.2, eps_max=0.2, seeds=torch.arange(len(x)), generator=None
    )
    losses = PGDTraining(steps=20).loss(graph, x, y, progress)
    natural = Natural().loss(graph, x, y, progress).total
    upper = GridPoint(combination=Mix(0, 0)).loss(graph, x, y, at(0.2)).total
    assert bool(natural < losses.total)
    assert bool(losses.total <= upper)
    again = PGDTraining(steps=20).loss(graph, x, y, progress)
    assert torch.equal(losses.total, again.total)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mix(kappa_end=1.5),
        lambda: Mix(kappa_start=float("nan")),
        lambda: CrownIBP(beta_start=-0.1),
        lambda: PGDTraining(steps=0),
        lambda: PGDTraining(step=-1.0),
    ],
)
def test_fields_out_of_range_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError):
        make()


def test_the_table_of_methods_describes_itself() -> None:
    for name, entry in METHODS.items():
        assert entry.name == name
        assert all((entry.title, entry.axes, entry.formula, entry.cost))
        assert entry.method.certifiers[0] == "ibp"
    assert CrownIBP(beta_end=1.0).certifiers == ("ibp", "crown-ibp")
