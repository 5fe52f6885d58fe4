"""Flips: every success is an image, and on tiny nets the worst combination of cells is found."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taut.attacks import PGD, Flips, margin
from taut.errors import ConfigError
from taut.models import Cells
from taut.region import Box

HARD = Flips(loss="margin", stop_early=False, restarts=3)


def net(seed: int, pixels: int = 6, n: int = 3, hidden: int = 8, emit: str = "levels") -> nn.Module:
    torch.manual_seed(seed)
    cells = Cells(n, emit=emit)  # type: ignore[arg-type]
    body: list[nn.Module] = [nn.Flatten(), nn.Linear(cells.channels(pixels), hidden), nn.ReLU()]
    model = nn.Sequential(cells, *body, nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    return model


def images(seed: int, count: int, pixels: int = 6) -> Tensor:
    return torch.rand(count, pixels, generator=torch.Generator().manual_seed(seed))


def reachable(cells: Cells, low: float, high: float) -> list[float]:
    """Pixels between two ends, one in each cell they meet; the ends among them."""
    edges = [t for t in cells.thresholds.tolist() if low < t <= high]
    return [low, *edges[:-1], high] if edges else [low]


def worst(model: nn.Module, box: Box, y: Tensor) -> Tensor:
    """The least margin over all combinations of cells, for each image."""
    found = []
    for low, high, label in zip(box.lower.tolist(), box.upper.tolist(), y, strict=True):
        each = [reachable(model[0], a, b) for a, b in zip(low, high, strict=True)]  # type: ignore[index]
        points = torch.tensor(list(itertools.product(*each)), dtype=box.dtype)
        found.append(margin(model(points), label.expand(len(points))).min())
    return torch.stack(found).detach()


@pytest.mark.parametrize("emit", ["levels", "ends"])
def test_the_worst_combination_of_cells_is_found_in_most_cases(emit: str) -> None:
    exact = 0
    for seed in range(10):
        model, x = net(seed, emit=emit), images(seed, 5)
        y = model(x).argmax(1)
        box = Box.around(x, 0.15)
        least = worst(model, box, y)
        found = HARD(model, x, y, box)
        assert bool((found.margin >= least - 1e-5).all())
        exact += int((found.margin <= least + 1e-5).sum())
    assert exact >= 45  # of 50


def test_a_search_that_stops_early_breaks_what_can_be_broken_and_nothing_else() -> None:
    broken = breakable = 0
    for seed in range(8):
        model, x = net(seed), images(seed, 20)
        y = model(x).argmax(1)
        box = Box.around(x, 0.15)
        least = worst(model, box, y)
        success = Flips(restarts=4)(model, x, y, box).success
        assert not bool((success & (least >= 0)).any())
        broken, breakable = broken + int(success.sum()), breakable + int((least < 0).sum())
    assert 20 <= breakable <= 140, breakable  # the case is telling
    assert broken >= 0.9 * breakable


def test_no_success_where_three_cells_meet_a_box_and_none_is_wrong() -> None:
    for seed in range(4):
        model, x = net(seed, pixels=4, n=8), images(seed, 12, pixels=4)
        y = model(x).argmax(1)
        box = Box.around(x, 0.15)
        assert max(len(reachable(model[0], a, a + 0.3)) for a in (0.2, 0.3)) >= 3  # type: ignore[index]
        found = HARD(model, x, y, box)
        assert bool((found.margin >= worst(model, box, y) - 1e-5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("emit", ["levels", "ends"])
def test_every_success_is_an_image_of_the_ball_that_the_whole_pipeline_gets_wrong(
    dtype: torch.dtype, emit: str
) -> None:
    count, eps = 0, 0.2
    for seed in range(4):
        model = net(seed, pixels=20, n=5, emit=emit).to(dtype)
        x = images(seed, 20, pixels=20).to(dtype)
        x[:, ::4] = x[:, ::4].round()  # the ball is cut at 0 and 1
        x[:, 1::4] = x[:, 1::4].mul(5).round().div(5)  # on the edges of cells
        y = model(x).argmax(1)
        box = Box.around(x, eps)
        found = Flips()(model, x, y, box)
        point = found.point[found.success]
        assert bool(box.contains(found.point).all())
        assert bool(((found.point >= 0) & (found.point <= 1)).all())
        assert float((found.point.double() - x.double()).abs().max()) <= eps + 1e-7
        assert bool((model(point).argmax(1) != y[found.success]).all())
        torch.testing.assert_close(found.margin, margin(model(found.point), y).detach())
        count += len(point)
    assert count > 10


def test_it_is_stronger_than_pgd_on_cells() -> None:
    better = worse = 0
    for seed in range(6):
        model, x = net(seed, pixels=60, n=4, hidden=30), images(seed, 20, pixels=60)
        y, box = model(x).argmax(1), Box.around(x, 0.12)
        flips = Flips(loss="margin", targets=1, stop_early=False)(model, x, y, box).margin
        pgd = PGD(steps=40, loss="margin", targets=1, stop_early=False)(model, x, y, box).margin
        better += int((flips < pgd - 1e-4).sum())
        worse += int((flips > pgd + 1e-4).sum())
    assert better >= 4 * worse
    assert better > 40


def test_where_the_gradient_vanishes_random_corners_are_tried() -> None:
    class Hidden(nn.Module):
        """Wrong at one corner of sixteen, flat at all others."""

        def __init__(self) -> None:
            super().__init__()
            self.cells = Cells(2)

        def forward(self, x: Tensor) -> Tensor:
            other = (self.cells(x).sum(1) - 3.5).relu()
            return torch.stack([torch.full_like(other, 0.1), other], 1)

    x, y = torch.full((30, 4), 0.45), torch.zeros(30, dtype=torch.int64)
    found = Flips(steps=60, restarts=3)(Hidden(), x, y, Box.around(x, 0.1))
    assert bool(found.success.all())
    assert bool((found.point == Box.around(x, 0.1).upper).all())
    few = Flips(steps=1)(Hidden(), x, y, Box.around(x, 0.1))
    assert not bool(few.success.all())


def recorded(model: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    return seen


def test_it_begins_at_a_corner_flips_all_with_gain_and_then_halves() -> None:
    slope = torch.tensor([[3.0, -2.0, 1.0, -1.0, 0.0, 2.0, 1.0, -3.0]])
    model = nn.Linear(8, 2, bias=False)
    model.weight.data = torch.cat([torch.zeros_like(slope), slope])
    x, y = torch.full((1, 8), 0.5), torch.tensor([0])
    box = Box.around(x, 0.2)
    seen = recorded(model)
    Flips(steps=6, stop_early=False)(model, x, y, box)
    start, first, *later = [point[0] for point in seen]
    assert bool(((start == box.lower) | (start == box.upper)).all())
    wanted = torch.where(slope[0] > 0, box.upper[0], box.lower[0])
    used = slope[0] != 0
    assert torch.equal(first[used], wanted[used])  # the model is linear: that is the best corner
    assert torch.equal(first[~used], start[~used])
    assert all(torch.equal(((p == box.lower[0]) | (p == box.upper[0])), used | True) for p in later)


def test_the_share_halves_after_a_try_that_was_no_better() -> None:
    class Sinking(nn.Module):
        """Every call is better for the true class than the one before, whatever the point."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            other = x.sum(1)
            return torch.stack([other * 0 + 1000.0 * self.calls, other], 1)

    model = Sinking()
    x, y = torch.full((1, 64), 0.5), torch.tensor([0])
    seen = recorded(model)
    box = Box.around(x, 0.1, None)
    attack = Flips(steps=6, loss="margin", targets=1, random_start=False, stop_early=False)
    attack(model, x, y, box)
    moved = [int((point != x).sum()) for point in seen[1:]]  # the first call ranks the targets
    assert moved[0] == 0  # begins at the image here
    assert moved[1:] == [64, 32, 16, 8, 4, 2]


def attacks() -> list[Callable[[], Flips]]:
    return [lambda: Flips(steps=8), lambda: HARD]


@pytest.mark.parametrize("make", attacks())
def test_an_image_is_attacked_alike_in_every_batch(make: Callable[[], Flips]) -> None:
    model, x = net(3, pixels=20).double(), images(5, 9, pixels=20).double()
    y, box, seeds = model(x).argmax(1), Box.around(x, 0.1), torch.arange(9) + 50
    whole = make()(model, x, y, box, seeds=seeds)
    order = torch.tensor([4, 0, 8, 2])
    part = make()(model, x[order], y[order], box[order], seeds=seeds[order])
    assert torch.equal(part.point, whole.point[order])
    assert torch.equal(part.success, whole.success[order])
    alone = make()(model, x[7:8], y[7:8], box[7:8], seeds=seeds[7:8])
    assert torch.equal(alone.point, whole.point[7:8])


def test_seeds_and_generators_decide_what_is_drawn() -> None:
    model, x = net(3, pixels=20), images(5, 6, pixels=20)
    y, box = model(x).argmax(1), Box.around(x, 0.1)
    attack = Flips(steps=3, stop_early=False)
    points = [attack(model, x, y, box, seeds=torch.arange(6) + s).point for s in (0, 0, 100)]
    assert torch.equal(points[0], points[1])
    assert not torch.equal(points[0], points[2])
    drawn = [
        attack(model, x, y, box, generator=torch.Generator().manual_seed(s)).point
        for s in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_more_restarts_break_no_less() -> None:
    model, x = net(8, pixels=30, n=5), images(9, 40, pixels=30)
    y, box = model(x).argmax(1), Box.around(x, 0.05)
    few = Flips(steps=2)(model, x, y, box).success
    many = Flips(steps=2, restarts=4)(model, x, y, box).success
    assert bool((few <= many).all())


def test_bad_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        Flips(steps=0)
