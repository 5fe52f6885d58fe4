"""Regions cut into boxes alone: exact minima, the other route, and what is closed on the way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from branch_nets import (
    ACTIVATIONS,
    CLASSES,
    case,
    dense,
    margin_at,
    question,
    shifted,
    status,
    worst_margin,
)
from torch import Tensor, nn

from taut.bounds import Ascent
from taut.bounds.zonotope import Zonotope
from taut.graph import trace
from taut.models import Cells
from taut.region import Box
from taut.verify.branch import Branch
from taut.verify.branch.parts import NONE
from taut.verify.branch.record import Record
from taut.verify.branch.tiles import Pile, Tiles, fitting
from taut.verify.complete import Question
from tests.counts import cases

TILES = Branch()
NEURONS = Branch(Ascent(8), Ascent(8), pixels=0)


def gridded(asked: Question, steps: int) -> float:
    """The least margin of one image over a grid of its box."""
    sides = [
        torch.linspace(float(a), float(b), steps, dtype=torch.float64)
        for a, b in zip(asked.box.lower[0], asked.box.upper[0], strict=True)
    ]
    logits, y = asked.module(torch.cartesian_prod(*sides)), int(asked.y)
    others = [j for j in range(CLASSES) if j != y]
    return float((logits[:, [y]] - logits[:, others]).min())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_both_answers_agree_with_the_exact_minimum(activation: str) -> None:
    for seed, sign, inputs in itertools.product(range(cases(3)), (1.0, -1.0), (2, 4)):
        asked, exact = case(activation, seed, sign, inputs)
        (answer,) = TILES.decide(asked)
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        assert answer.bound <= exact + 1e-9
        if answer.point is not None:
            assert exact - 1e-9 <= margin_at(asked, 0, answer.point) < 0
        else:
            assert answer.bound > 0


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_curved_activations_agree_with_a_grid(activation: str) -> None:
    for seed, sign in itertools.product(range(2), (1.0, -1.0)):
        net = dense(activation, seed, inputs=2)
        x = torch.rand(1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        box, y = Box.around(x, 0.4), net(x).argmax(1)
        least = gridded(question(net, box, y), 150)
        shifted(net, int(y), least - sign * 0.02)
        (answer,) = TILES.decide(question(net, box, y))
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        assert answer.bound <= sign * 0.02 + 1e-9


def test_it_agrees_with_splitting_neurons_near_the_border() -> None:
    seen = set()
    for seed in range(6):
        asked, _ = case("relu", seed, (-1.0) ** seed, inputs=3)
        tiles, neurons = TILES.decide(asked)[0], NEURONS.decide(asked)[0]
        assert status(tiles) == status(neurons)
        seen.add(status(tiles))
    assert seen == {"verified", "falsified"}


@pytest.mark.parametrize("most", [1, 5, 10**6])
def test_closed_tiles_cover_the_region_and_their_bounds_hold(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the search stops: volumes add up, and points have the margins of their tile."""
    closed: list[Tiles] = []
    close = Record.close

    def noted(self: Record, parts: Tiles) -> None:
        if isinstance(parts, Tiles):
            closed.append(parts)
        close(self, parts)

    monkeypatch.setattr(Record, "close", noted)
    asked, exact = case("relu", 1, 1.0)
    (answer,) = replace(TILES, parts=most, attack_steps=0).decide(asked)
    assert status(answer) == ("verified" if most > 1000 else "undecided")
    lower, upper, proved = (
        torch.cat([getattr(lot, name) for lot in closed]) for name in ("lower", "upper", "proved")
    )
    whole = (asked.box.upper - asked.box.lower).prod()
    assert float((upper - lower).prod(1).sum()) == pytest.approx(float(whole), rel=1e-9)
    assert answer.bound == float(proved.amin())
    for end, most_extreme in ((lower, asked.box.lower), (upper, asked.box.upper)):
        assert torch.equal(end.amin(0) if end is lower else end.amax(0), most_extreme[0])
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(2000, 3, generator=generator, dtype=torch.float64)
    points = torch.lerp(asked.box.lower, asked.box.upper, u)
    logits, y = asked.module(points), int(asked.y)
    inside = ((lower[:, None] <= points) & (points <= upper[:, None])).all(2)
    assert bool((inside.sum(0) >= 1).all())
    margins = logits[:, [y]] - logits
    for tile in range(len(lower)):
        here = margins[inside[tile]]
        others = [j for j in range(CLASSES) if j != y]
        assert bool((here[:, others] >= proved[tile, others] - 1e-9).all())
    assert answer.bound <= exact + 1e-9


def test_halves_meet_in_the_middle_of_one_input() -> None:
    lower = torch.tensor([[0.0, 2.0], [1.0, -4.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 4.0], [5.0, 0.0]], dtype=torch.float64)
    proved, along = torch.tensor([[1.0, -2.0], [3.0, -4.0]]), torch.tensor([1, 0])
    both = Tiles(3, lower, upper, proved, along, torch.zeros(2)).halves()
    assert both.lower.tolist() == [[0, 2], [1, -4], [0, 3], [3, -4]]
    assert both.upper.tolist() == [[1, 3], [3, 0], [1, 4], [5, 0]]
    assert both.proved.tolist() == proved.tolist() * 2
    assert both.image.tolist() == [3] * 4


def numbered(values: list[float]) -> Tiles:
    """Tiles that differ in their numbers, with values."""
    each = torch.arange(float(len(values)))[:, None]
    zero = torch.zeros(len(values), dtype=torch.int64)
    return Tiles(0, each, each + 1, -each, zero, torch.tensor(values))


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_a_pile_gives_back_every_tile_once_the_promising_first(size: int) -> None:
    values = torch.randperm(50, generator=torch.Generator().manual_seed(size)).tolist()
    pile, seen = Pile(), []
    pile.put(numbered([float(v) for v in values]), size)
    assert pile.worst == -49.0
    while pile:
        lot = pile.take(size)
        assert 1 <= len(lot) <= size
        seen += lot.value.tolist()
    assert seen == sorted(values)
    pile.put(numbered([5.0, 1.0, 7.0, 3.0]), 4)
    taken = pile.take(1)  # batches have become smaller since
    assert taken.value.tolist() == [1.0]
    rest = torch.cat([lot.value for lot in pile.rest()])
    assert sorted(rest.tolist()) == [3.0, 5.0, 7.0]


def test_a_linear_piece_is_bounded_exactly_at_once() -> None:
    """No neuron bends, so that the first bound is the minimum, which a corner takes."""
    net = dense("relu", 0)
    net[0].bias.data.fill_(100.0)
    net[2].weight.data.abs_()
    box = Box.around(torch.full((1, 3), 0.5, dtype=torch.float64), 0.4)
    asked = question(net, box, net(box.center).argmax(1))
    corners = torch.cartesian_prod(*(torch.stack([a, b]) for a, b in
                                     zip(box.lower[0], box.upper[0], strict=True)))  # fmt: skip
    logits, y = net(corners), int(asked.y)
    margins = logits[:, [y]] - logits
    least = float(margins[:, [j for j in range(CLASSES) if j != y]].min())
    (answer,) = TILES.decide(asked)
    if least > 0:
        assert (status(answer), answer.parts) == ("verified", 1)
        assert answer.bound == pytest.approx(least, rel=1e-9)
    else:
        assert status(answer) == "falsified"
    shifted(net, y, least - 1e-6)
    (answer,) = TILES.decide(question(net, box, asked.y))
    assert (status(answer), answer.parts) == ("verified", 1)


def several() -> tuple[Question, list[float]]:
    """Images of one network with both answers, and their exact least margins."""
    net = dense("relu", 4)
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)
    shifted(net, int(y[0]), 1.45)
    box = Box.around(x, torch.linspace(0.1, 0.5, 4, dtype=torch.float64), None)
    exact = [worst_margin(net, box[slice(i, i + 1)], int(y[i])) for i in range(4)]
    return question(net, box, y), exact


def test_answers_do_not_depend_on_company_and_repeat() -> None:
    asked, exact = several()
    together, again = TILES.decide(asked), TILES.decide(asked)
    assert {status(a) for a in together} == {"verified", "falsified"}
    for i, answer in enumerate(together):
        part = slice(i, i + 1)
        (alone,) = TILES.decide(
            replace(
                asked, box=asked.box[part], inner=asked.inner[part], y=asked.y[part],
                proved=asked.proved[part], threshold=asked.threshold[part],
                seconds=[math.inf], seeds=[i],
            )
        )  # fmt: skip
        assert status(answer) == ("verified" if exact[i] > 0 else "falsified")
        assert (answer.bound, answer.parts) == (again[i].bound, again[i].parts)
        assert (answer.bound, answer.parts) == (alone.bound, alone.parts)


def test_inputs_that_do_not_move_are_not_split() -> None:
    """Thirty inputs, two of which move: tiles of two numbers, and the answer of the two alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    net = net.double().requires_grad_(False)
    x, radius = torch.rand(1, 5, 6, dtype=torch.float64), torch.zeros(1, 5, 6, dtype=torch.float64)
    radius[0, 1, 2], radius[0, 4, 5] = 3.0, 3.0
    box, y = Box(x - radius, x + radius), net(x).argmax(1)
    grid = torch.cartesian_prod(*[torch.linspace(-3, 3, 300, dtype=torch.float64)] * 2)
    points = x.expand(len(grid), 5, 6).clone()
    points[:, 1, 2] += grid[:, 0]
    points[:, 4, 5] += grid[:, 1]
    logits = net(points)
    others = [j for j in range(CLASSES) if j != int(y)]
    least = float((logits[:, y] - logits[:, others]).min())
    for sign in (1.0, -1.0):
        net[3].bias.data[y] -= least - sign * 0.01
        (answer,) = TILES.decide(question(net, box, y))
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        if answer.point is not None:
            moved = (answer.point - x[0]).abs() > 0
            assert not bool((moved & (radius[0] == 0)).any())
        net[3].bias.data[y] += least - sign * 0.01


def test_a_point_is_decided_though_nothing_moves() -> None:
    net = dense("relu", 2)
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits = net(x)[0]
    for y in range(CLASSES):
        others = [j for j in range(CLASSES) if j != y]
        margin = float((logits[y] - logits[others]).min())
        (answer,) = TILES.decide(question(net, Box(x, x), torch.tensor([y])))
        assert status(answer) == ("verified" if margin > 0 else "falsified")
        assert answer.bound == pytest.approx(margin, abs=1e-9) or margin < 0


def test_a_margin_of_zero_ends_undecided_even_where_floats_run_out() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double().requires_grad_(False)
    for tensor in (net[2].weight, net[2].bias):
        tensor.data[1] = tensor.data[0]
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    y = torch.zeros(1, dtype=torch.int64)
    (answer,) = replace(TILES, parts=50).decide(question(net, Box.around(x, 0.2), y))
    assert status(answer) == "undecided"
    above = x
    for _ in range(3):
        above = torch.nextafter(above, torch.ones_like(above))
    asked = question(net, Box(x, above), y, threshold=torch.full((1,), 1e-9, dtype=torch.float64))
    (answer,) = TILES.decide(asked)  # sixteen points, and no more splits than they allow
    assert status(answer) == "undecided"
    assert answer.parts < 40
    assert answer.bound <= 0


def test_without_time_the_bound_holds_all_the_same() -> None:
    asked, exact = case("relu", 0, 1.0)
    (answer,) = TILES.decide(replace(asked, seconds=[1e-9]))
    assert status(answer) == "timeout"
    assert -math.inf < answer.bound <= exact
    assert answer.bound <= 0


@pytest.mark.parametrize("where", [0, 4])
def test_nan_proves_nothing(where: int) -> None:
    asked, _ = case("relu", 0, 1.0)
    asked.module[where].weight.data[0, 0] = math.nan  # type: ignore[index, union-attr]
    (answer,) = TILES.decide(question(asked.module, asked.box, asked.y))
    assert (status(answer), answer.bound) == ("nan", -math.inf)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_memory_that_runs_out_halves_the_batches(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, exact = case("relu", 0, 1.0)
    intermediate = Zonotope.intermediate

    def scarce(self: Zonotope, net: object, region: Box) -> object:
        if len(region.lower) > 2 * most:
            raise MemoryError
        return intermediate(self, net, region)  # type: ignore[arg-type]

    monkeypatch.setattr(Zonotope, "intermediate", scarce)
    (answer,) = TILES.decide(asked)
    assert answer.bound <= exact + 1e-9
    assert status(answer) == ("verified" if most else "memory")
    assert (answer.bound > 0) == (most > 0)


def test_large_networks_and_cells_are_left_to_the_other_search() -> None:
    like = torch.zeros(1, dtype=torch.float64)

    def size(net: nn.Module, shape: tuple[int, ...]) -> int:
        return fitting(trace(net.double(), shape).instance(), 5, 2**30, like)

    small = nn.Sequential(nn.Linear(5, 50), nn.ReLU(), nn.Linear(50, 5))
    large = nn.Sequential(nn.Linear(5, 4000), nn.ReLU(), nn.Linear(4000, 5))
    cells = nn.Sequential(Cells(3), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert size(small, (5,)) >= 16
    assert size(large, (5,)) == 0
    assert size(cells, (1, 2, 3)) == 0


def test_the_input_that_matters_is_halved_and_none_without_a_float_between() -> None:
    """The margin reads one input alone; splits of the other would not end."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().requires_grad_(False)
    net[0].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    net[0].bias.data.zero_()
    net[2].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    net[2].bias.data = torch.tensor([-1e-3, 0.0], dtype=torch.float64)  # |x| - 0.001
    box = Box(torch.tensor([[-1.0, -1.0]]).double(), torch.tensor([[1.0, 1.0]]).double())
    widths: list[Tensor] = []
    halves = Tiles.halves

    def noted(self: Tiles) -> Tiles:
        found = halves(self)
        assert not bool((self.along == NONE).any())
        widths.append((found.upper - found.lower).amin(0))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tiles, "halves", noted)
        asked = question(net, box, torch.zeros(1, dtype=torch.int64))
        (answer,) = replace(TILES, attack_steps=0, parts=300).decide(
            replace(asked, inner=Box(box.lower, box.lower))
        )
    assert status(answer) == "undecided"  # the only point that may be tried is safe
    narrow = torch.stack(widths).amin(0)
    assert float(narrow[0]) < float(narrow[1])
