"""What the attacks find: exact optima of linear models, planted points, and nothing false."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.attacks import FGSM, PGD, margin
from taut.region import Box
from tests.counts import cases

SEEDS = st.integers(0, 2**32 - 1)
ATTACKS = [
    FGSM(),
    FGSM(random_start=False),
    PGD(steps=7),
    PGD(steps=5, restarts=2, loss="margin"),
    PGD(steps=6, loss="margin", targets=1, milestones=(2, 4)),
    PGD(steps=4, stop_early=False),
]


def problem(seed: int, batch: int = 4, size: int = 6, classes: int = 3):
    """Random images, some pixels at the ends of the pixel range, labels, and weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, size, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(batch, size, generator=generator) < 0.3, x.round(), x)
    y = torch.randint(classes, (batch,), generator=generator)
    weight = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    return x, y, weight, bias


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.weight.data, layer.bias.data = weight, bias
    return layer


def network(seed: int, size: int = 6, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(size, 12), nn.ReLU(), nn.Linear(12, classes)).double()


@settings(max_examples=cases(40), deadline=None)
@given(SEEDS, st.floats(0, 0.6))
def test_a_linear_model_is_attacked_to_the_exact_optimum(seed, eps):
    """min over the box of z_y - z_t is its value at the center minus |w_y - w_t| times the radius;
    every pixel can cross the whole box in the default steps, from any start."""
    x, y, weight, bias = problem(seed)
    box = Box.around(x, eps)
    rows = weight[y][:, None] - weight  # (B, K, n)
    offset = bias[y][:, None] - bias
    exact = (
        offset
        + torch.einsum("bkn,bn->bk", rows, box.center)
        - torch.einsum("bkn,bn->bk", rows.abs(), box.radius)
    )
    exact = exact.scatter(1, y[:, None], torch.inf).amin(1)
    for attack in (
        PGD(steps=9, loss="margin", stop_early=False),
        PGD(steps=1, step=2.0, loss="margin", random_start=False, stop_early=False),
        FGSM(step=2.0, loss="margin", stop_early=False),
    ):
        found = attack(linear(weight, bias), x, y, box)
        torch.testing.assert_close(found.margin, exact, atol=1e-9, rtol=0)


@settings(max_examples=cases(40), deadline=None)
@given(SEEDS, st.floats(0, 0.6))
def test_cross_entropy_is_exact_on_two_classes(seed, eps):
    x, y, weight, bias = problem(seed, classes=2)
    box = Box.around(x, eps)
    row = weight[y] - weight[1 - y]
    exact = bias[y] - bias[1 - y] + (row * box.center).sum(1) - (row.abs() * box.radius).sum(1)
    for attack in (PGD(steps=9, stop_early=False), FGSM(random_start=False, stop_early=False)):
        found = attack(linear(weight, bias), x, y, box)
        torch.testing.assert_close(found.margin, exact, atol=1e-9, rtol=0)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@settings(max_examples=cases(15), deadline=None)
@given(seed=SEEDS, eps=st.floats(0, 1))
def test_every_iterate_stays_in_the_box_and_success_is_a_misclassification(attack, seed, eps):
    x, y, _, _ = problem(seed)
    net, box = network(seed), Box.around(x, eps)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach().clone()))
    found = attack(net, x, y, box)
    low, high = box.lower.amin(0), box.upper.amax(0)
    assert all(bool(((point >= low) & (point <= high)).all()) for point in seen)
    assert all(bool(box.contains(point).all()) for point in seen if len(point) == len(x))
    assert bool(box.contains(found.point).all())
    assert bool(((found.point >= 0) & (found.point <= 1)).all())
    again = margin(net(found.point), y)
    torch.testing.assert_close(found.margin, again, atol=1e-12, rtol=1e-12)
    assert torch.equal(found.success, found.margin < 0)
    wrong = net(found.point).argmax(1) != y
    assert bool(wrong[found.success].all())
    assert not found.point.requires_grad


@settings(max_examples=cases(20), deadline=None)
@given(SEEDS)
def test_more_restarts_and_more_targets_never_lower_success(seed):
    x, y, _, _ = problem(seed, batch=8)
    net, box = network(seed), Box.around(x, 0.1)
    y = net(x).argmax(1)
    for loss in ("ce", "margin"):
        counts = [PGD(steps=3, restarts=n, loss=loss)(net, x, y, box).success for n in (1, 2, 4)]
        assert bool((counts[0] <= counts[1]).all())
        assert bool((counts[1] <= counts[2]).all())
    few = PGD(steps=3, loss="margin", targets=1)(net, x, y, box).success
    assert bool((few <= PGD(steps=3, loss="margin")(net, x, y, box).success).all())


@settings(max_examples=cases(20), deadline=None)
@given(SEEDS, st.permutations(range(6)), st.sampled_from(ATTACKS))
def test_the_result_of_an_image_does_not_depend_on_its_batch(seed, order, attack):
    x, y, _, _ = problem(seed, batch=6)
    net, box, seeds = network(seed), Box.around(x, 0.15), torch.arange(6) + seed
    whole = attack(net, x, y, box, seeds=seeds)
    part = torch.tensor(order[:4])
    found = attack(net, x[part], y[part], box[part], seeds=seeds[part])
    torch.testing.assert_close(found.point, whole.point[part], atol=1e-12, rtol=0)
    torch.testing.assert_close(found.margin, whole.margin[part], atol=1e-9, rtol=0)
    for i in range(6):
        one = slice(i, i + 1)
        alone = attack(net, x[one], y[one], box[one], seeds=seeds[one])
        torch.testing.assert_close(alone.point, whole.point[one], atol=1e-12, rtol=0)


class Planted(nn.Module):
    """Class 1 wins only within ``radius`` (l_1) of one planted point per image."""

    def __init__(self, points: Tensor, radius: float) -> None:
        super().__init__()
        self.points, self.radius = points, radius

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - self.points[: len(x)]).abs().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(distance), self.radius - distance], 1)


@settings(max_examples=cases(25), deadline=None)
@given(SEEDS, st.sampled_from(["ce", "margin"]))
def test_a_planted_counterexample_is_found(seed, loss):
    """A target of a tenth of the half width per pixel, inside the box, in one image alone."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(1, 8, generator=generator, dtype=torch.float64)
    eps = 0.1
    planted = x + eps * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
    net = Planted(planted, radius=8 * 0.1 * eps)
    y = torch.zeros(1, dtype=torch.int64)
    assert bool((net(planted).argmax(1) == 1).all())
    found = PGD(steps=40, loss=loss)(net, x, y, Box.around(x, eps))
    assert bool(found.success.all())
    assert bool((net(found.point).argmax(1) == 1).all())
    far = PGD(steps=40, loss=loss)(Planted(planted + 3 * eps, 0.1 * eps), x, y, Box.around(x, eps))
    assert not bool(far.success.any())


def test_restarts_find_what_one_start_misses():
    """Two basins: a wide one that never breaks the image and a narrow one that does."""

    class Basins(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide, narrow = 1 - (x[:, 0] - 0.2).abs(), 4 * (0.06 - (x[:, 0] - 0.9).abs())
            return torch.stack([torch.full_like(wide, 1.01), torch.maximum(wide, 1 + narrow)], 1)

    x, y = torch.full((64, 1), 0.5), torch.zeros(64, dtype=torch.int64)
    box = Box.around(x, 0.5)
    one = PGD(steps=10, step=0.02)(Basins(), x, y, box).success.double().mean()
    many = PGD(steps=10, step=0.02, restarts=20)(Basins(), x, y, box).success.double().mean()
    assert 0 < one < 0.5 < 0.9 < many


def test_a_model_of_nan_is_never_broken():
    net = network(0)
    net[0].weight.data.fill_(torch.nan)
    x, y, _, _ = problem(0)
    for attack in ATTACKS:
        found = attack(net, x, y, Box.around(x, 0.1))
        assert not bool(found.success.any())
        assert bool(found.margin.isnan().all())
        assert torch.equal(found.point, x)


def test_a_tie_is_no_success():
    net = network(0)
    for parameter in net.parameters():
        parameter.data.zero_()
    x, y, _, _ = problem(0)
    found = PGD(steps=3)(net, x, y, Box.around(x, 0.1))
    assert not bool(found.success.any())
    assert torch.equal(found.margin, torch.zeros(len(x), dtype=x.dtype))
