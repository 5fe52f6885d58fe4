"""Cells as a first layer: exact grids, what they emit, gradients, and keeping them."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import taut
from taut.api.loading import architecture_of
from taut.api.planning import from_recipe
from taut.errors import ConfigError, ModelError, UnsupportedOperator
from taut.graph import trace
from taut.models import Cells, build
from taut.operators import Bounds
from taut.store import save_weights
from taut.training import from_dict, loads

GREYS = [Fraction(g, 255) for g in range(256)]
EITHER = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def greys(dtype: torch.dtype) -> Tensor:
    """Return all grey levels as images (256, 1, 1, 1), as a division and as a product has them."""
    level = torch.arange(256, dtype=dtype)
    both = torch.cat([level / 255, level * torch.tensor(1 / 255, dtype=dtype)])
    return both.view(-1, 1, 1, 1)


def cell_of(cells: Cells, x: Tensor) -> list[int]:
    found: list[int] = cells.steps().cell(x).flatten().tolist()
    return found


@EITHER
def test_grey_levels_get_the_cells_of_exact_arithmetic(dtype: torch.dtype) -> None:
    x = greys(dtype)
    for n in (*range(1, 257), 512, 1024):
        wanted = [min(g * n // 255, n - 1) for g in range(256)]
        assert cell_of(Cells(n).to(dtype), x) == 2 * wanted, n


@EITHER
@pytest.mark.parametrize("offset", ["1/2", "1/4", "3/4", "1/3", "1/10"])
def test_an_offset_moves_the_grid(offset: str, dtype: torch.dtype) -> None:
    exact, x = Fraction(offset), greys(dtype)
    for n in (1, 2, 3, 5, 7, 10, 15, 17, 44, 51, 57, 85, 255):
        edges = [(j + exact) / n for j in range(n)]
        wanted = [sum(edge <= grey for edge in edges) for grey in GREYS]
        assert cell_of(Cells(n, offset=float(exact)).to(dtype), x) == 2 * wanted, n


def test_a_threshold_belongs_to_the_cell_above_it() -> None:
    edges = [0.1, 0.25, 0.7]
    cells = Cells(thresholds=edges)
    t = cells.thresholds
    for x, shift in ((t, 1), (torch.nextafter(t, t - 1), 0), (torch.nextafter(t, t + 1), 1)):
        assert cell_of(cells, x[:, None]) == [k + shift for k in range(3)]
    torch.testing.assert_close(t, torch.tensor(edges))


@pytest.mark.parametrize("emit", ["levels", "ends"])
@pytest.mark.parametrize("tail", [(), (5,), (4, 3)])
def test_channels_have_grids_of_their_own(emit: Any, tail: tuple[int, ...]) -> None:
    x = torch.rand(3, 3, *tail, generator=torch.Generator().manual_seed(0))
    counts = [1, 4, 7]
    found = Cells(counts, emit=emit)(x)
    alone = [Cells(n, emit=emit)(x[:, [c]]) for c, n in enumerate(counts)]
    halves = zip(*(a.chunk(a.shape[1], 1) for a in alone), strict=True)
    wanted = torch.cat([part for half in halves for part in half], 1)
    assert torch.equal(found, wanted)
    shared = torch.cat([Cells(4, emit=emit)(x[:, [c]]) for c in range(3)], 1)
    one = Cells(4, emit=emit)(x)
    order = [0, 1, 2] if emit == "levels" else [0, 2, 4, 1, 3, 5]
    assert torch.equal(one, shared[:, order])


def test_levels_run_evenly_from_0_to_1_and_never_descend() -> None:
    x = torch.linspace(0, 1, 4001)[:, None]
    for n in (1, 2, 3, 10, 33):
        found = Cells(n)(x)[:, 0]
        wanted = [0.5] if n == 1 else [k / (n - 1) for k in range(n)]
        torch.testing.assert_close(found.unique(), torch.tensor(wanted), rtol=0, atol=1e-7)
        assert bool((found.diff() >= 0).all())


@EITHER
def test_ends_are_the_intervals_of_the_paper(dtype: torch.dtype) -> None:
    r"""Both ends of :math:`[-1 + k d, -1 + (k + 1) d]`, d = 2 / n, upper ends first."""
    x = greys(dtype)[:256]
    for n in (1, 2, 5, 9, 57):
        upper, lower = Cells(n, emit="ends").to(dtype)(x)[:, :, 0, 0].unbind(1)
        k = [min(g * n // 255, n - 1) for g in range(256)]
        for found, more in ((lower, 0), (upper, 1)):
            wanted = torch.tensor([float(-1 + Fraction(2, n) * (c + more)) for c in k], dtype=dtype)
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-7)
        assert bool((lower - 1e-6 <= 2 * x.flatten() - 1).all())
        assert bool((upper + 1e-6 >= 2 * x.flatten() - 1).all())


def test_ends_of_a_moved_grid_hold_their_pixels() -> None:
    x = torch.rand(500, 1, generator=torch.Generator().manual_seed(1))
    upper, lower = Cells(6, emit="ends", offset=0.25)(x).unbind(1)
    torch.testing.assert_close(upper - lower, torch.full_like(upper, 2 / 6))
    assert bool(((lower - 1e-5 <= 2 * x[:, 0] - 1) & (2 * x[:, 0] - 1 <= upper + 1e-5)).all())


def smoothed(x: Tensor, thresholds: Tensor, values: Tensor) -> Tensor:
    r"""Return the staircase with every jump spread by a tent of half width w, a mean cell.

    .. math:: v_0 + \sum_j (v_{j+1} - v_j) \, H((x - t_j) / w)

    where H is the integral of the tent :math:`\max(1 - |s|, 0)`.
    """
    found = values[0].expand_as(x)
    for j in range(len(thresholds)):
        s = (x - thresholds[j]) * len(values)
        rise = torch.where(s < 0, (1 + s).clamp(min=0) ** 2 / 2, 1 - (1 - s).clamp(min=0) ** 2 / 2)
        found = found + (values[j + 1] - values[j]) * rise
    return found


def test_thresholds_get_the_gradient_of_the_smoothed_staircase() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.rand(4, 3, 5, 2, generator=g, dtype=torch.float64)
    weight = torch.randn(4, 3, 5, 2, generator=g, dtype=torch.float64)
    rows = torch.tensor([[0.2, 0.35, 0.6], [0.1, 0.5, 0.9], [0.3, 0.31, 0.32]])
    for edges in (rows, rows[0]):
        cells = Cells(thresholds=edges.tolist(), learn=True).double()
        (cells(x) * weight).sum().backward()
        assert cells.thresholds.grad is not None
        start = cells.thresholds.detach()
        values = torch.linspace(0, 1, 4, dtype=torch.float64)

        def loss(t: Tensor, values: Tensor = values) -> float:
            each = t.expand(3, -1)
            parts = [smoothed(x[:, c], each[c], values) for c in range(3)]
            return float((torch.stack(parts, 1) * weight).sum())

        for place in range(start.numel()):
            step = torch.zeros(start.numel(), dtype=torch.float64)
            step[place] = 1e-6
            step = step.view_as(start)
            wanted = (loss(start + step) - loss(start - step)) / 2e-6
            found = float(cells.thresholds.grad.flatten()[place])
            assert math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-4)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 3)])
def test_pixels_get_the_slope_between_the_ends(shape: tuple[int, ...]) -> None:
    x = torch.rand(3, *shape, requires_grad=True)
    weight = torch.randn(3, *shape)
    (Cells([4, 1])(x) * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0], weight[:, 0])  # levels from 0 to 1
    assert not x.grad[:, 1].any()  # one cell: nothing the pixel does is seen
    x.grad = None
    both = torch.randn(3, 4, *shape[1:])
    (Cells(5, emit="ends")(x) * both).sum().backward()
    slope = 2 - 2 / 5  # of the lower ends, -1 to 1 - 2 / n, and of the upper ones
    torch.testing.assert_close(x.grad, slope * (both[:, :2] + both[:, 2:]))


def test_gradients_go_where_they_are_asked_for_alone() -> None:
    x = torch.rand(2, 1, 3)
    assert not Cells(4)(x).requires_grad
    with torch.no_grad():
        assert not Cells(4, learn=True)(x.requires_grad_()).requires_grad
    cells = Cells(4, learn=True)
    values = cells.values.requires_grad_()
    found = cells(x.detach()).sum()
    by_values, by_edges = torch.autograd.grad(found, (values, cells.thresholds), allow_unused=True)
    assert by_values is None
    assert by_edges.abs().sum() > 0
    alone = Cells(1, learn=True)  # has no threshold at all
    alone(x.detach().requires_grad_()).sum().backward()
    assert alone.thresholds.grad is not None
    assert alone.thresholds.grad.shape == (0,)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_realised_pixels_lie_in_their_cells_and_are_the_nearest(data: st.DataObject) -> None:
    unit = st.floats(0, 1, width=32)
    inner = st.floats(2.0**-20, 1 - 2.0**-20, width=32)
    edges = sorted(data.draw(st.lists(inner, min_size=1, max_size=5, unique=True)))
    steps = Cells(thresholds=edges).steps()
    ends = unit | st.sampled_from(edges)
    lower, upper = sorted((data.draw(ends), data.draw(ends)))
    low, high, near = (torch.tensor([[v]]) for v in (lower, upper, data.draw(unit)))
    cells = torch.tensor([[data.draw(st.integers(int(steps.cell(low)), int(steps.cell(high))))]])
    found = steps.realised(cells, Bounds(low, high), near)
    assert torch.equal(steps.cell(found), cells)
    assert lower <= float(found) <= upper
    if float(found) != float(near):  # one number nearer is outside of the cell or of the box
        nearer = torch.nextafter(found, near)
        inside = lower <= float(nearer) <= upper
        assert not (inside and torch.equal(steps.cell(nearer), cells))


def test_learned_thresholds_need_no_order() -> None:
    cells, sorted_ones = Cells(4, learn=True), Cells(thresholds=[0.2, 0.6, 0.7])
    with torch.no_grad():
        cells.thresholds.copy_(torch.tensor([0.7, 0.2, 0.6]))
    x = torch.rand(50, 1)
    assert torch.equal(cells(x), sorted_ones(x))
    cells.thresholds.requires_grad_(False)  # frozen after training
    assert torch.equal(cells(x), sorted_ones(x))


KINDS: dict[str, dict[str, Any]] = {
    "even": {"n": 7},
    "ends": {"n": 5, "emit": "ends"},
    "offset": {"n": 6, "offset": 0.25},
    "channels": {"n": [3, 5]},
    "ends of channels": {"n": [3, 5], "emit": "ends", "offset": 0.5},
    "learned": {"n": 4, "learn": True},
    "given": {"thresholds": [[0.1, 0.5], [0.3, 0.9]]},
    "given and learned": {"thresholds": [0.123456789, 0.5, 0.75], "learn": True},
}
SHAPE = (2, 8, 8)


def trained(kind: str) -> nn.Module:
    """Return a network as training might leave it: learned thresholds anywhere, in any order."""
    model = build("dm-small-p1", SHAPE, 4, cells=KINDS[kind])
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=g)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_trained_networks_come_back(kind: str, tmp_path: Path) -> None:
    model, x = trained(kind), torch.rand(6, *SHAPE)
    kept = architecture_of(model, SHAPE, 4)
    assert kept["name"] == "dm-small-p1"
    assert set(kept["cells"]) == set(KINDS[kind])
    save_weights(tmp_path / "net.safetensors", model.state_dict(), kept)
    for again in (
        taut.load_model(tmp_path / "net.safetensors"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert torch.equal(again(x), model(x))
        assert repr(again) == repr(model)
        assert architecture_of(again, SHAPE, 4) == kept
    fresh = build("dm-small-p1", SHAPE, 4, cells=kept["cells"])
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    learns = bool(KINDS[kind].get("learn"))
    assert ("0.thresholds" in dict(model.named_parameters())) is learns
    net = trace(model, SHAPE).instance()
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)


def test_print_shows_the_grid() -> None:
    assert repr(Cells(5)) == "Cells(n=5)"
    assert repr(Cells([2, 3], emit="ends", offset=0.5)) == (
        "Cells(n=[2, 3], emit='ends', offset=0.5)"
    )
    shown = repr(Cells(thresholds=[1 / 3, 0.5], learn=True))
    assert shown == "Cells(thresholds=[0.3333, 0.5], learn=True)"


RECIPE = """
[data]
name = "mnist-5k"

[model]
name = "dm-small-p1"
options = {{ cells = {cells} }}

[method]
name = "ibp"

[train]
epochs = 1
eps = 0.1

[certify]
eps = 0.1
"""

WRONG: list[tuple[Any, str]] = [
    ({"n": 0}, "whole numbers from 1 to 1024; got 0"),
    ({"n": 1025}, "whole numbers from 1 to 1024; got 1025"),
    ({"n": True}, "whole numbers from 1 to 1024; got True"),
    ({"n": 2.5}, r"whole numbers from 1 to 1024; got 2\.5"),
    ({"n": "12"}, "whole numbers from 1 to 1024; got '12'"),
    ({"n": [3, "4"]}, "whole numbers"),
    ({"n": []}, "cells.n is empty"),
    ({}, "either n or thresholds"),
    ({"n": 3, "thresholds": [0.5]}, "either n or thresholds"),
    ({"n": 3, "emit": "middle"}, "levels or ends; got 'middle'"),
    ({"n": 3, "emit": "ends", "learn": True}, "needs an even grid"),
    ({"thresholds": [0.5], "emit": "ends"}, "needs an even grid"),
    ({"n": 3, "offset": 1.0}, r"offset must lie in \[0, 1\); got 1\.0"),
    ({"n": 3, "offset": -0.1}, "offset must lie in"),
    ({"n": 3, "offset": "half"}, "offset must lie in .* got 'half'"),
    ({"n": 3, "offset": True}, "offset must lie in .* got True"),
    ({"thresholds": [0.5], "offset": 0.5}, "offset moves an even grid"),
    ({"n": [3, 4], "learn": True}, "learn needs the same n"),
    ({"n": 3, "learn": "no"}, "learn must be true or false; got 'no'"),
    *[
        ({"thresholds": wrong}, "must ascend inside")
        for wrong in ([], 0.5, [0.0], [1.0], [0.5, 0.4], [0.5, 0.5], [[0.1], [0.2, 0.3]], "ab",
                      [float("nan")], [10**40], [[[0.5]]])
    ],
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_makes_no_grid_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cells(**options)
    with pytest.raises(ConfigError, match=message):
        build("dm-small-p1", SHAPE, 4, cells=options)


def test_grids_that_do_not_fit_a_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="give cells, or mean and std"):
        build("dm-small-p1", SHAPE, 4, cells=3, mean=[0.1, 0.1], std=[1, 1])
    with pytest.raises(ConfigError, match="cells are given for 3 channels"):
        build("dm-small-p1", SHAPE, 4, cells=[2, 3, 4])
    with pytest.raises(ModelError, match="does not accept images"):
        trace(nn.Sequential(Cells([2, 3]), nn.Flatten(), nn.Linear(27, 2)), (3, 3, 3))
    late = nn.Sequential(nn.Conv2d(1, 1, 1), Cells(3), nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(UnsupportedOperator, match="behind another layer"):
        trace(late, (1, 3, 3))


RECIPES = {
    "5": {"n": 5},
    "[5]": {"n": [5]},
    "{ n = 7, offset = 0.25 }": {"n": 7, "offset": 0.25},
    '{ n = 3, emit = "ends" }': {"n": 3, "emit": "ends"},
    "{ thresholds = [0.25, 0.5], learn = true }": {"thresholds": [0.25, 0.5], "learn": True},
}


@pytest.mark.parametrize("cells", RECIPES)
def test_recipes_say_which_cells(cells: str) -> None:
    plan = from_recipe(loads(RECIPE.format(cells=cells)))
    grid = next(plan.model.children())
    assert isinstance(grid, Cells)
    assert grid.configuration() == RECIPES[cells] == plan.architecture["cells"]
    assert plan.architecture["name"] == "dm-small-p1"
    again = from_recipe(from_dict(plan.recipe.to_dict()))
    assert repr(again.model) == repr(plan.model)
    assert plan.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("{ size = 3 }", "unknown key 'model.options.cells.size' .cells have n, emit, offset"),
        ("true", "must be a number of cells.*got True"),
        ("0.5", r"must be a number of cells, a list .* or a table .*; got 0\.5"),
        ('"5"', "must be a number of cells"),
        ("{ n = 2000 }", "whole numbers from 1 to 1024; got 2000"),
        ("{ n = 3, learn = 1 }", "learn must be true or false"),
        ("{ thresholds = [0.5, 0.1] }", "must ascend inside"),
        ("{}", "either n or thresholds"),
    ],
)
def test_recipes_with_no_cells_in_them_are_refused(cells: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_recipe(loads(RECIPE.format(cells=cells)))


@pytest.mark.parametrize("emit", ["levels", "ends"])
def test_the_slope_of_unequal_channels_is_that_of_their_own_cells(emit: str) -> None:
    counts = [2, 10, 4]
    layer = Cells(counts, emit=emit).double()
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    for channel, n in enumerate(counts):
        rise = 1.0 if emit == "levels" else 2 * 2 * (n - 1) / n  # both ends rise
        assert torch.allclose(x.grad[0, channel], torch.tensor(rise, dtype=torch.float64))


def test_a_table_of_cells_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'cells\.m'"):
        build("dm-small-p1", (1, 28, 28), 10, cells={"m": 3})
    with pytest.raises(ConfigError, match="first cell that holds no pixel"):
        Cells(3, offset=1e-7)
