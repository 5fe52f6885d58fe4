"""Sum, convex logits, geometric mean and TRADES against their formulas, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
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
    ibp_losses,
    ibp_margins,
    in_shares,
    logits_of,
    mlp,
    traced,
)
from torch import Tensor, nn

from taut.attacks import PGD
from taut.attacks.losses import divergence
from taut.errors import ConfigError, RegionError
from taut.region import Box
from taut.training import (
    METHODS,
    Batch,
    ConvexLogits,
    Geometric,
    GridPoint,
    Losses,
    Sum,
    Trades,
    TrainingAttack,
    WeightedBox,
    choose,
)

EXPRESSIVE = (Sum, ConvexLogits, Geometric)
TABLE = ("trades", "rs-pgd", "ibp-r", "mtl-ibp", "cc-ibp", "exp-ibp")
JOINT = ("adv-ibp", "adv-crown-ibp", "adv-sabr")


class Forbidden:
    """An attack or region that must not be asked."""

    steps, scale = 1, 1.0

    def points(self, *_: Any) -> Tensor:
        raise AssertionError("the attack has no weight")

    def boxes(self, *_: Any) -> Sequence[WeightedBox]:
        raise AssertionError("the bound has no weight")


class TwoBoxes:
    """A box of half the radius with weight 0.25, the ball with 0.75."""

    def boxes(self, batch: Batch, eps: float, progress: Any) -> Sequence[WeightedBox]:
        small, large = Box.around(batch.x, eps / 2), Box.around(batch.x, eps)
        return (WeightedBox(small, 0.25), WeightedBox(large, 0.75))


def by_hand(
    kind: type, alpha: float, layers: Any, low: Tensor, high: Tensor, y: Tensor, point: Tensor
) -> Tensor:
    logits = logits_of(layers, point)
    adversarial = cross_entropies(logits, y).mean()
    robust = ibp_losses(layers, low, high, y).mean()
    if kind is Sum:
        return alpha * robust + (1 - alpha) * adversarial
    if kind is Geometric:
        return robust**alpha * adversarial ** (1 - alpha)
    found = logits[torch.arange(len(y)), y][:, None] - logits
    mixed = alpha * ibp_margins(layers, low, high, y) + (1 - alpha) * found
    return torch.log(torch.exp(-mixed).sum(1)).mean()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize(
    ("kind", "name"), [(Sum, "mtl-ibp"), (ConvexLogits, "cc-ibp"), (Geometric, "exp-ibp")]
)
def test_expressive_losses_equal_their_formulas(
    kind: type, name: str, alpha: float, norm: bool
) -> None:
    model, (x, y) = mlp(norm=norm), batch()
    method = choose(name, {"alpha": alpha, "attack": {"steps": 4, "step": 0.5, "scale": 1.5}})
    progress = at()
    assert progress.seeds is not None
    attack = TrainingAttack(steps=4, step=0.5, scale=1.5)
    point = attacked_points(model, x, y, EPS, attack, progress.seeds)
    losses = method.loss(traced(model), x, y, progress)
    # the attacked images normalise the step, except where nothing is attacked
    layers = affine_layers(model, x if alpha == 1.0 else point)
    wanted = by_hand(kind, alpha, layers, *ends(x, EPS), y, point)
    assert_same_loss(losses.total, wanted, model)


@pytest.mark.parametrize("natural", [0.3, 1.0])
def test_the_sum_takes_in_the_natural_loss(natural: float) -> None:
    model, (x, y) = mlp(), batch()
    progress = at()
    assert progress.seeds is not None
    attack = TrainingAttack(steps=2, step=0.5)
    fields = {"alpha": 0.2, "natural": natural, "attack": {"steps": 2, "step": 0.5}}
    point = attacked_points(model, x, y, EPS, attack, progress.seeds)
    layers = affine_layers(model, x)
    rest = by_hand(Sum, 0.2, layers, *ends(x, EPS), y, point)
    wanted = natural * cross_entropies(logits_of(layers, x), y).mean() + (1 - natural) * rest
    losses = choose("mtl-ibp", fields).loss(traced(model), x, y, progress)
    assert_same_loss(losses.total, wanted, model)


def test_clean_statistics_normalise_where_asked_for() -> None:
    model, (x, y) = mlp(norm=True), batch()
    method = choose("mtl-ibp", {"statistics": "clean"})
    progress = at()
    assert progress.seeds is not None
    losses = method.loss(traced(model), x, y, progress)
    model_again = mlp(norm=True)
    point = attacked_points(model_again, x, y, EPS, TrainingAttack(1, 10.0), progress.seeds)
    wanted = by_hand(Sum, 0.5, affine_layers(model, x), *ends(x, EPS), y, point)
    assert_same_loss(losses.total, wanted, model)


@pytest.mark.parametrize("kind", EXPRESSIVE)
def test_expressive_losses_run_from_the_adversarial_to_the_robust_loss(kind: Any) -> None:
    model, (x, y) = mlp(), batch()
    graph = traced(model)
    alphas = [0.0, 0.05, 0.2, 0.5, 0.8, 1.0]
    found = [GridPoint(combination=kind(a)).loss(graph, x, y, at()) for a in alphas]
    totals = [losses.total.item() for losses in found]
    assert all(low < high for low, high in pairwise(totals))
    torch.testing.assert_close(found[0].total.detach(), found[2].parts["adversarial"])
    torch.testing.assert_close(found[-1].total.detach(), found[2].parts["robust"])


@pytest.mark.parametrize("kind", EXPRESSIVE)
def test_what_has_no_weight_is_not_computed(kind: Any) -> None:
    model, (x, y) = mlp(), batch()
    forbidden: Any = Forbidden()
    no_attack = GridPoint(combination=kind(1.0, forbidden)).loss(traced(model), x, y, at())
    assert set(no_attack.parts) == {"robust"}
    no_bound = GridPoint(region=forbidden, combination=kind(0.0)).loss(traced(model), x, y, at())
    assert set(no_bound.parts) == {"adversarial"}
    assert no_bound.bounded == ()


def test_several_sets_weigh_the_losses_of_convex_logits() -> None:
    model, (x, y) = mlp(), batch()
    region: Any = TwoBoxes()
    progress = at()
    assert progress.seeds is not None
    method = GridPoint(region=region, combination=ConvexLogits(0.3))
    losses = method.loss(traced(model), x, y, progress)
    point = attacked_points(model, x, y, EPS, TrainingAttack(1, 10.0), progress.seeds)
    layers = affine_layers(model, x)
    small, large = (
        by_hand(ConvexLogits, 0.3, layers, *ends(x, eps), y, point) for eps in (EPS / 2, EPS)
    )
    assert_same_loss(losses.total, 0.25 * small + 0.75 * large, model)
    assert len(losses.bounded) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_geometric_mean_has_finite_gradients_where_a_loss_vanishes(
    dtype: torch.dtype, eps: float
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    x = torch.full((3, 1, 2, 2), 0.5, dtype=dtype)
    y = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([2e3, 0.0, 0.0]))
    losses = GridPoint(combination=Geometric(0.3)).loss(traced(model), x, y, at(eps, count=3))
    assert float(losses.parts["adversarial"]) == 0.0
    losses.total.backward()
    assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in model.parameters())


def test_geometric_mean_of_two_shares_is_that_of_the_batch() -> None:
    model, (x, y) = mlp(), batch()
    method = GridPoint(combination=Geometric(0.3))
    seeds = at().seeds
    assert seeds is not None

    def work(rows: slice, average: Callable[[Tensor], Tensor]) -> Losses:
        progress = replace(at(), seeds=seeds[rows], average=average)
        return method.loss(traced(model), x[rows], y[rows], progress)

    alone = method.loss(traced(model), x, y, at())
    shares = [slice(0, 3), slice(3, 7)]
    parts = in_shares(work, shares, 7)
    assert_same_loss(parts[0].total * 3 / 7 + parts[1].total * 4 / 7, alone.total, model)


@pytest.mark.parametrize("weight", [0.5, 6.0])
def test_trades_equals_its_formula(weight: float) -> None:
    model, (x, y) = mlp(), batch()
    method = choose("trades", {"weight": weight})
    losses = method.loss(traced(model), x, y, at())
    attack = TrainingAttack(steps=10, step=0.225, loss="kl", spread=0.03)
    point = attack.points(Batch(traced(model), x, y), Box.around(x, EPS), at())
    p, q = model(x).softmax(1), model(point).softmax(1)
    wanted = cross_entropies(model(x), y).mean() + weight * (p * (p / q).log()).sum(1).mean()
    assert_same_loss(losses.total, wanted, model)
    torch.testing.assert_close(
        losses.total.detach(), losses.parts["natural"] + weight * losses.parts["divergence"]
    )


def test_trades_without_weight_is_natural_training() -> None:
    model, (x, y) = mlp(), batch()
    forbidden: Any = Forbidden()
    losses = GridPoint(combination=Trades(0.0, forbidden)).loss(traced(model), x, y, at())
    assert_same_loss(losses.total, cross_entropies(model(x), y).mean(), model)


def test_divergence_is_the_sum_over_classes_and_its_gradient_vanishes_at_equality() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    p, q = a.softmax(1), b.softmax(1)
    torch.testing.assert_close(divergence(a, b), (p * (p.log() - q.log())).sum(1))
    assert bool((divergence(a, b) > 0).all())
    again = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence(a, again).sum(), again)
    torch.testing.assert_close(slope, torch.zeros_like(a), rtol=0, atol=1e-15)


def test_divergence_attack_beats_random_corners_and_stays_in_the_ball() -> None:
    model, (x, y) = mlp(), batch()
    box = Box.around(x, 0.2)
    attack = TrainingAttack(steps=20, restarts=8, loss="kl", spread=0.03)
    point = attack.points(Batch(traced(model), x, y), box, at(0.2))
    assert bool(box.contains(point).all())
    reached = divergence(model(x), model(point))
    generator = torch.Generator().manual_seed(2)
    rivals = []
    for _ in range(50):
        corner = torch.rand(x.shape, generator=generator, dtype=x.dtype) < 0.5
        rivals.append(divergence(model(x), model(torch.where(corner, box.lower, box.upper))))
    highest = torch.stack(rivals).amax(0)
    assert bool((reached >= 0.9 * highest).all())
    # labels are not asked: what is climbed is the distance from the clean probabilities
    other = attack.points(Batch(traced(model), x, (y + 1) % 3), box, at(0.2))
    assert torch.equal(point, other)


def test_narrow_starts_lie_near_the_image_and_a_start_box_has_the_shape_of_the_ball() -> None:
    x, y = batch()
    box, seen = Box.around(x, EPS), []

    def flat(points: Tensor) -> Tensor:
        seen.append(points.detach())
        return points.flatten(1)[:, :3] * 1.0

    TrainingAttack(steps=1, spread=0.05).climb(flat, x, y, box, at())
    start = seen[0]
    assert bool(((start - x).abs() <= 0.05 * EPS + 1e-12).all())
    assert float((start - x).abs().max()) > 0.02 * EPS
    with pytest.raises(RegionError, match="starts"):
        PGD(steps=1)(flat, x, y, box, start=Box.around(x[:2], EPS))


@pytest.mark.parametrize("name", [*TABLE, *JOINT])
def test_a_warm_up_epoch_is_natural_training(name: str) -> None:
    model, (x, y) = mlp(), batch()
    method = METHODS[name].method
    losses = method.loss(traced(model), x, y, at(0.0, natural_only=True))
    assert_same_loss(losses.total, cross_entropies(model(x), y).mean(), model)
    assert set(losses.parts) == {"natural"}


@pytest.mark.parametrize("name", [*TABLE, *JOINT])
def test_regularisers_find_batch_and_bounds(name: str) -> None:
    model, (x, y) = mlp(), batch()
    losses = METHODS[name].method.loss(traced(model), x, y, at())
    assert losses.batch is not None
    assert torch.equal(losses.batch.x, x)
    assert len(losses.bounded) == (0 if name == "trades" else 1)
    for bounded in losses.bounded:
        first = bounded.intermediate.activations()[0]
        width = first.upper - first.lower
        assert torch.autograd.grad(width.sum(), model[1].weight)[0].abs().sum() > 0
    assert not any(part.requires_grad for part in losses.parts.values())
    assert all(0.0 <= float(rate) <= 1.0 for rate in losses.rates.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sum(alpha=1.5),
        lambda: ConvexLogits(alpha=-0.1),
        lambda: Geometric(alpha=float("nan")),
        lambda: Trades(weight=-1.0),
        lambda: Trades(weight=float("inf")),
        lambda: TrainingAttack(spread=0.0),
        lambda: TrainingAttack(spread=1.5),
        lambda: choose("trades", {"attack": {"loss": "margin"}}),
    ],
)
def test_fields_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="method"):
        make()
