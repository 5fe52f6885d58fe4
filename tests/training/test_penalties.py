"""Adversarial loss with a penalty on interval bounds, against the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from combination_helpers import (
    EPS,
    affine_layers,
    assert_same_loss,
    at,
    attacked_points,
    batch,
    cross_entropies,
    ends,
    intervals,
    mlp,
    traced,
)
from torch import Tensor, nn

from taut.errors import ConfigError
from taut.training import CrownIBP, GridPoint, Penalty, TrainingAttack, choose


def hidden(model: nn.Sequential, x: Tensor, eps: float) -> list[tuple[Tensor, Tensor]]:
    return intervals(affine_layers(model, x), *ends(x, eps))


def stability(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """-sum over neurons of tanh(1 + u l), one per image."""
    total = torch.zeros(len(layers[0][0]), dtype=torch.float64)
    for low, high in layers:
        for neuron in range(low.shape[1]):
            total = total - torch.tanh(1 + high[:, neuron] * low[:, neuron])
    return total


def area(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over the layers of the sums of [-l]_+ [u]_+, one per image."""
    total = torch.zeros(len(layers[0][0]), dtype=torch.float64)
    for low, high in layers:
        for neuron in range(low.shape[1]):
            below, above = low[:, neuron], high[:, neuron]
            crossing = (below < 0) & (above > 0)
            total = total + torch.where(crossing, -below * above, 0.0)
    return total / len(layers)


def adversarial(model: nn.Sequential, attack: TrainingAttack) -> tuple[Tensor, Tensor]:
    """Loss at the attacked points and which of them are classified correctly."""
    x, y = batch()
    seeds = at().seeds
    assert seeds is not None
    logits = model(attacked_points(model, x, y, EPS, attack, seeds))
    return cross_entropies(logits, y).mean(), logits.argmax(1) == y


def test_stability_loss_equals_its_formula() -> None:
    model, (x, y) = mlp(), batch()
    losses = choose("rs-pgd", {"weight": 0.3}).loss(traced(model), x, y, at())
    attacked, _ = adversarial(model, TrainingAttack(steps=8, step=0.3))
    penalty = stability(hidden(model, x, EPS)[:-1]).mean()
    assert_same_loss(losses.total, attacked + 0.3 * penalty, model)
    torch.testing.assert_close(losses.parts["penalty"], penalty.detach())


def test_ambiguous_area_equals_its_formula_on_the_wider_ball() -> None:
    model, (x, y) = mlp(), batch()
    losses = choose("ibp-r", {"weight": 0.3}).loss(traced(model), x, y, at())
    attacked, _ = adversarial(model, TrainingAttack(steps=8, step=0.25, scale=2.1))
    penalty = area(hidden(model, x, 2.1 * EPS)).mean()  # the logits count as a layer
    natural = cross_entropies(model(x), y).mean()
    kappa = 0.5  # eps is half of its maximum
    wanted = kappa * natural + (1 - kappa) * (attacked + 0.3 * penalty)
    assert_same_loss(losses.total, wanted, model)
    assert penalty.item() > 0.01


def test_without_outputs_only_relus_count() -> None:
    model, (x, y) = mlp(), batch()
    attack = TrainingAttack(steps=2)
    method = GridPoint(combination=Penalty(0.7, "ambiguous-area", attack))
    losses = method.loss(traced(model), x, y, at())
    attacked, _ = adversarial(model, attack)
    assert_same_loss(losses.total, attacked + 0.7 * area(hidden(model, x, EPS)[:-1]).mean(), model)


def test_masked_penalty_leaves_out_images_that_the_attack_breaks() -> None:
    model, (x, y) = mlp(), batch()
    attack = TrainingAttack(steps=2)
    method = GridPoint(combination=Penalty(0.7, "stability", attack, masked=True))
    losses = method.loss(traced(model), x, y, at())
    attacked, holds = adversarial(model, attack)
    assert 0 < int(holds.sum()) < len(y)
    penalty = (stability(hidden(model, x, EPS)[:-1]) * holds).mean()
    assert_same_loss(losses.total, attacked + 0.7 * penalty, model)


def test_bounds_of_a_dearer_method_leave_the_intervals_of_the_penalty() -> None:
    model, (x, y) = mlp(), batch()
    penalty = Penalty(0.3, attack=TrainingAttack(steps=1))
    crown = GridPoint(bound=CrownIBP(), combination=penalty).loss(traced(model), x, y, at())
    plain = GridPoint(combination=penalty).loss(traced(model), x, y, at())
    torch.testing.assert_close(crown.total, plain.total, rtol=1e-12, atol=1e-12)


def test_no_weight_means_adversarial_training_without_bounds() -> None:
    model, (x, y) = mlp(), batch()
    attack = TrainingAttack(steps=2)
    losses = GridPoint(combination=Penalty(0.0, attack=attack)).loss(traced(model), x, y, at())
    assert_same_loss(losses.total, adversarial(model, attack)[0], model)
    assert losses.bounded == ()


def test_leaky_relus_count_and_smooth_activations_are_refused() -> None:
    x, y = batch()
    leaky = mlp(bend=nn.LeakyReLU)
    low, high = ends(x.flatten(1), EPS)
    first = leaky[1]
    assert isinstance(first, nn.Linear)
    middle, half = (low + high) / 2, (high - low) / 2
    center = middle @ first.weight.T + first.bias
    radius = half @ first.weight.abs().T
    method = choose("rs-pgd", {})
    bounds = method.loss(traced(leaky), x, y, at()).bounded[0].intermediate.activations()[0]
    torch.testing.assert_close(bounds.lower, center - radius)
    torch.testing.assert_close(bounds.upper, center + radius)
    with pytest.raises(ConfigError, match="ReLU"):
        method.loss(traced(mlp(bend=nn.Sigmoid)), x, y, at())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Penalty(weight=-1.0),
        lambda: Penalty(term="width"),  # type: ignore[arg-type]
        lambda: Penalty(scale=0.0),
        lambda: Penalty(kappa_start=2.0),
    ],
)
def test_fields_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=r"method\.(weight|term|scale|kappa_start)"):
        make()
