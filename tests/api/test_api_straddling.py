"""Which pixels straddle, against counts written out in exact arithmetic."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from taut.api import straddling
from taut.data import ImageSet
from taut.models import Cells, cells_of
from taut.region import PIXELS

GREYS = torch.arange(256, dtype=torch.uint8)


def greys() -> ImageSet:
    """One image that holds every grey level once."""
    return ImageSet.from_tensors(GREYS.view(1, 1, 16, 16), torch.tensor([0]), 2)


def crossed(level: int, eps: Fraction, edges: list[Fraction]) -> bool:
    """Whether an edge lies in (x - eps, x + eps], of the ball cut to [0, 1]."""
    x = Fraction(level, 255)
    lower, upper = max(x - eps, Fraction(0)), min(x + eps, Fraction(1))
    return any(lower < edge <= upper for edge in edges)


# The radii of the literature are on pixels of [-1, 1], twice those here.
@pytest.mark.parametrize(
    ("n", "eps"),
    [
        (57, Fraction(1, 255)), (57, Fraction(2, 255)), (44, Fraction(1, 255)),
        (31, Fraction(1, 255)), (31, Fraction(4, 255)), (15, Fraction(8, 255)),
        (9, Fraction(1, 20)), (5, Fraction(1, 10)), (3, Fraction(3, 20)), (2, Fraction(1, 5)),
        (2, Fraction(1, 20)), (1, Fraction(1, 2)), (5, Fraction(0)),
    ],
)  # fmt: skip
def test_grey_levels_straddle_as_in_exact_arithmetic(n: int, eps: Fraction) -> None:
    edges = [Fraction(k, n) for k in range(1, n)]
    expected = [crossed(level, eps, edges) for level in range(256)]
    grid, x = Cells(n), GREYS.view(1, 1, 16, 16) / 255
    found = straddling.straddling(
        straddling.steps_of(straddling.describe(grid)), x, float(eps), PIXELS
    )
    assert found.flatten().tolist() == expected
    told = straddling.figures(grid, greys(), float(eps), PIXELS, 1.0)
    assert told["straddling_most"] == sum(expected)
    assert told["straddling_share"] == sum(expected) / 256
    assert told["without_straddling"] == (sum(expected) == 0)


def learned() -> Cells:
    """Thresholds that training has moved past each other."""
    grid = Cells(3, learn=True)
    with torch.no_grad():
        grid.thresholds.copy_(torch.tensor([0.71, 0.13]))
    return grid


GRIDS = {
    "even": lambda: Cells(5),
    "ends": lambda: Cells(5, emit="ends", offset=0.25),
    "channels": lambda: Cells([2, 7, 3]),
    "given": lambda: Cells(thresholds=[0.2, 0.45, 0.9]),
    "given by channel": lambda: Cells(thresholds=[[0.2, 0.4], [0.3, 0.7], [0.5, 0.6]]),
    "learned": learned,
}


def rows(grid: Cells) -> list[list[float]]:
    """The edges of each of three channels."""
    edges = grid.thresholds.detach().double()
    return [[t for t in row if t < 1] for row in edges.expand(3, -1).tolist()]


def brute(grid: Cells, x: Tensor, eps: float) -> list[int]:
    """How many values of each image (3, H, W) have an edge in reach, one by one."""
    counts = []
    for image in x.double():
        count = 0
        for channel, edges in zip(image, rows(grid), strict=True):
            for value in channel.flatten().tolist():
                lower, upper = max(value - eps, 0.0), min(value + eps, 1.0)
                count += sum(t <= lower for t in edges) != sum(t <= upper for t in edges)
        counts.append(count)
    return counts


@pytest.mark.parametrize("name", GRIDS)
def test_figures_are_counts_image_by_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straddling, "CHUNK", 4)  # the images take several rounds
    grid = GRIDS[name]()
    pixels = torch.rand(11, 3, 3, 2, generator=torch.Generator().manual_seed(3))
    pixels[4] = 0.999  # beyond every edge, so that one image has no value that straddles
    images = ImageSet.from_tensors(pixels, torch.zeros(11, dtype=torch.int64), 2)
    expected = brute(grid, pixels, 0.04)
    told = straddling.figures(grid, images, 0.04, PIXELS, 0.25)
    assert 0 < sum(expected) < pixels.numel()
    assert told["straddling_mean"] == pytest.approx(sum(expected) / 11)
    assert told["straddling_share"] == pytest.approx(sum(expected) / pixels.numel())
    assert told["straddling_most"] == max(expected)
    assert told["without_straddling"] == expected.count(0) >= 1
    assert told["pixels"] == 18
    assert told["cell_accuracy"] == 0.25


@pytest.mark.parametrize("name", GRIDS)
def test_a_described_grid_comes_back_from_json(name: str) -> None:
    grid = GRIDS[name]()
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    told = json.loads(json.dumps(straddling.describe(grid)))
    assert told["emit"] == grid.emit
    steps = straddling.steps_of(told)
    assert torch.equal(steps.cell(x), grid.steps().cell(x))
    assert torch.equal(steps.forward(x).long(), steps.cell(x))


def test_an_even_grid_is_told_by_its_number_of_cells() -> None:
    told = straddling.describe(Cells(5, emit="ends", offset=0.5))
    assert told == {"emit": "ends", "n": 5, "offset": 0.5}
    moved = straddling.describe(learned())
    assert moved["thresholds"] == pytest.approx([0.13, 0.71])
    assert moved["learn"] is True


@pytest.mark.parametrize("eps", [0.03, 0.2])
def test_no_image_of_the_region_leaves_the_cells_of_values_that_do_not_straddle(eps: float) -> None:
    generator = torch.Generator().manual_seed(5)
    grid = Cells([4, 6, 2], offset=0.3)
    steps = straddling.steps_of(straddling.describe(grid))
    x = torch.rand(3, 3, 5, 5, generator=generator)
    reached = straddling.straddling(steps, x, eps, PIXELS)
    moved = torch.zeros_like(reached)
    for _ in range(400):
        near = x + eps * 0.999 * (2 * torch.rand(x.shape, generator=generator) - 1)
        moved |= steps.cell(near.clamp(0, 1)) != steps.cell(x)
    assert not (moved & ~reached).any()
    assert moved.sum() > 0.8 * reached.sum()


def test_levels_go_from_the_first_cell_to_the_last() -> None:
    x = torch.tensor([[0.0, 0.3, 1.0]]).expand(3, 3).reshape(1, 3, 3, 1)
    steps = straddling.steps_of(straddling.describe(Cells([1, 2, 5])))
    found = straddling.levels(steps, x)[0, :, :, 0]
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 0.25, 1.0]])
    assert torch.equal(found, expected)


def test_only_the_first_layer_counts() -> None:
    grid = Cells(2)
    assert cells_of(nn.Sequential(nn.Sequential(grid, nn.Flatten()), nn.ReLU())) is grid
    assert cells_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) is None
    assert cells_of(nn.Sequential(nn.Flatten(), grid)) is None
    assert cells_of(nn.Sequential()) is None
