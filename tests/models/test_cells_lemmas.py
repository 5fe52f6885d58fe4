"""What the published check of a classifier on cells sees, and what it does not.

Pixels are on [-1, 1] here, as in the paper: the radius is twice that of raw pixels, n cells have
the width d = 2 / n.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import taut
from taut.errors import ConfigError, DataError, ModelError
from taut.models import Cells

Array = NDArray[np.float64]


def majority(x: Array, eps: Array, n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the cell with the largest overlap with each ball, the upper one of equals.

    Every cell is measured. Where x and eps are given in units of which a cell has a whole
    number, so that the overlaps of ties are equal.
    """
    unit = 2.0**-20  # of a cell: all ends of intervals are whole numbers of it
    best = np.zeros(len(x), dtype=np.int64)
    most = np.full(len(x), -1.0)
    centre, radius = np.rint(x / unit), np.rint(eps / unit)
    low = np.maximum(centre - radius, 0)
    high = np.minimum(centre + radius, n / unit)
    for k in range(int(n.max())):
        overlap = np.minimum(high, (k + 1) / unit) - np.maximum(low, k / unit)
        overlap = np.where(k < n, overlap, -np.inf)
        inside = (low >= k / unit) & (high <= (k + 1) / unit) & (k < n)
        overlap = np.where(inside & (high == low), 0.0, overlap)  # a ball of one point
        take = overlap >= most
        best, most = np.where(take, k, best), np.where(take, overlap, most)
    return best


@pytest.mark.parametrize("ties", [False, True])
def test_the_cell_of_the_majority_is_the_cell_of_the_pixel(ties: bool) -> None:
    """500,000 pixels each, all widths from twice eps up; pixels on an edge are ties."""
    random = np.random.default_rng(3 + ties)
    count = 500_000
    n = random.integers(1, 13, count)
    unit = 2.0**-20
    # positions in cells, from 0 to n; eps at most half a cell
    x = random.integers(0, n, count) * 1.0 if ties else random.random(count) * n
    x = np.rint(x / unit) * unit
    x = np.where(random.random(count) < 0.02, n, x)  # white pixels too
    eps = np.rint(random.random(count) * 0.5 / unit) * unit
    eps = np.where(random.random(count) < 0.2, 0.5, eps)  # just wide enough
    expected = np.minimum(np.floor(x), n - 1).astype(np.int64)
    assert np.array_equal(majority(x, eps, n), expected)
    # and it is the cell that the layer finds, away from the edges, which it has a bit lower
    far = np.abs(x - np.rint(x)) > 1e-4
    for cells in range(1, 13):
        mine = (n == cells) & far
        if mine.any():
            raw = torch.from_numpy(x[mine] / cells)[:, None]
            found = Cells(cells).steps().cell(raw)[:, 0].numpy()
            assert np.array_equal(found, expected[mine])


def test_a_tie_on_an_edge_of_grey_levels_goes_to_the_upper_cell() -> None:
    for n in (3, 5, 15, 17, 51, 85):
        edges = torch.arange(1, n) * (255 // n)
        found = Cells(n).steps().cell((edges.float() / 255)[:, None])[:, 0]
        assert found.tolist() == list(range(1, n))


def reach(x: float, eps: float, n: int) -> set[int]:
    """Return the cells a pixel of [-1, 1] can reach, those from its lower to its upper end."""
    d = 2 / n
    ends = [max(x - eps, -1.0), min(x + eps, 1.0)]
    first, last = (min(int((end + 1) // d), n - 1) for end in ends)
    return set(range(first, last + 1))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_no_pixel_reaches_three_cells_just_where_a_cell_is_as_wide_as_the_ball(n: int) -> None:
    d = 2 / n
    for eps in (0.3 * d, 0.499 * d, 0.501 * d, 0.8 * d, 1.3 * d):
        pixels = np.linspace(-1, 1, 4001)
        sizes = {len(reach(float(x), eps, n)) for x in pixels}
        # three cells need one inside the ball with neighbours on both sides
        assert (max(sizes) <= 2) == (d >= 2 * eps or n < 3)
        assert max(sizes) <= int(np.ceil(2 * eps / d)) + 1


@pytest.mark.parametrize(("n", "eps"), [(3, 0.2), (5, 0.2), (7, 0.1), (4, 0.3)])
def test_the_reachable_cells_are_those_of_the_images_of_the_ball(n: int, eps: float) -> None:
    cells = Cells(n)
    for x in np.linspace(-1, 1, 101):
        near = np.clip(x + np.linspace(-eps, eps, 2001), -1, 1)
        found = cells.steps().cell(torch.from_numpy((near + 1) / 2)[:, None]).flatten()
        away = np.abs((near + 1) * n / 2 - np.rint((near + 1) * n / 2)) > 1e-4
        ends = [(max(x - eps, -1) + 1) * n / 2, (min(x + eps, 1) + 1) * n / 2]
        if min(abs(end - round(end)) for end in ends) < 1e-3:
            continue  # an end on an edge is a matter of rounding
        assert set(found.numpy()[away].tolist()) == reach(float(x), eps, n)


class Sign(nn.Module):
    """+1 for cells whose ends add up to more than 0, else -1, as two logits."""

    def forward(self, ends: Tensor) -> Tensor:
        total = ends.flatten(1).sum(1)
        return torch.stack([-total, total], 1)


def raw(x: float) -> Tensor:
    """One image of one pixel, from [-1, 1] to [0, 1]."""
    return torch.tensor([[[[(x + 1) / 2]]]])


def test_the_check_passes_an_image_that_a_point_of_its_ball_flips() -> None:
    """Two cells: 0.05 lies in [0, 1], and -0.05, within 0.1 of it, in [-1, 0]."""
    net = nn.Sequential(Cells(2, emit="ends"), Sign())
    x, other, label = raw(0.05), raw(-0.05), torch.tensor([1])
    assert net[0](x).flatten().tolist() == [1.0, 0.0]
    assert net[0](other).flatten().tolist() == [0.0, -1.0]
    assert taut.cell_accuracy(net, x, label) == 1.0
    assert float((other - x).abs().max()) * 2 <= 0.1 + 1e-6  # in the ball
    assert net(other).argmax(1).item() == 0  # and classified otherwise


def test_neighbouring_grey_levels_of_photographs_lie_in_two_cells() -> None:
    """57 cells, eps 2/255 on [-1, 1]: one grey level, and 125 and 126 are on both sides of an edge.

    A network that looks at this edge alone gives every pixel of grey 125 another answer one level
    up, and the check passes the image.
    """
    n, eps = 57, 2 / 255
    grey = [torch.full((1, 3, 32, 32), float(level)) / 255 for level in (125, 126)]
    cells = Cells(n, emit="ends")
    below, above = (cells.steps().cell(image).unique().tolist() for image in grey)
    assert (below, above) == ([125 * n // 255], [126 * n // 255]) == ([27], [28])
    edge = -1 + 2 * 28 / n
    assert 2 * 125 / 255 - 1 < edge < 2 * 126 / 255 - 1
    assert edge == pytest.approx(-1 / 57)

    class Edge(nn.Module):
        def forward(self, ends: Tensor) -> Tensor:
            lower = ends[:, 3:].flatten(1).mean(1)
            return torch.stack([edge - 1 / n - lower, lower - edge + 1 / n], 1)

    net = nn.Sequential(cells, Edge())
    label = net(grey[0]).argmax(1)
    assert taut.cell_accuracy(net, grey[0], label) == 1.0
    assert float((grey[1] - grey[0]).abs().max()) * 2 <= eps + 1e-6
    assert net(grey[1]).argmax(1).item() != label.item()


@pytest.mark.parametrize(
    ("n", "eps", "expected"),
    [(57, 2, 0.4375), (57, 4, 0.875), (44, 2, 0.336), (31, 2, 0.234), (31, 8, 0.9375)],
)
def test_how_many_grey_levels_straddle(n: int, eps: int, expected: float) -> None:
    """Counted over the 256 levels, in whole numbers: an edge lies within eps, 255ths of [-1, 1]."""
    straddling = 0
    for level in range(256):
        ends = [max(2 * level - eps, 0), min(2 * level + eps, 510)]  # in 510ths of the range
        first, last = (min(end * n // 510, n - 1) for end in ends)
        straddling += first != last
    assert straddling / 256 == pytest.approx(expected, abs=5e-4)
    levels = torch.arange(256).double()[:, None] / 255
    radius = eps / 510
    box = taut.Box((levels - radius).clamp(0, 1), (levels + radius).clamp(0, 1))
    bends = Cells(n).steps().bends(taut.Bounds(box.lower, box.upper))
    assert abs(int(bends.sum()) - straddling) <= 2  # ends on an edge are a matter of rounding


def test_cell_accuracy_is_the_share_of_images_whose_cells_are_classified_correctly() -> None:
    torch.manual_seed(0)
    net = taut.build_model("fc3", (1, 4, 4), 3, cells={"n": 3, "emit": "ends"})
    net.append(nn.Dropout(0.9))
    net.train()
    x = torch.rand(70, 1, 4, 4)
    y = torch.arange(70) % 3
    d = 2 / 3
    lower = torch.floor(x * 3).clamp(max=2) * d - 1
    ends = torch.cat([lower + d, lower], 1)  # all upper ends, then all lower ones
    with torch.no_grad():
        expected = (net[1:-1](ends).argmax(1) == y).double().mean().item()
    assert taut.cell_accuracy(net, x, y) == expected
    assert taut.cell_accuracy(net, x, y, batch_size=9) == expected
    assert net.training
    # any image with the same cells gives the same, however far
    moved = (torch.floor(x * 3).clamp(max=2) + 0.05 + 0.9 * torch.rand_like(x)) / 3
    assert taut.cell_accuracy(net, moved, y) == expected


def test_what_does_not_fit_is_refused() -> None:
    net = taut.build_model("fc3", (1, 2, 2), 3, cells=2)
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ModelError, match=r"does not begin with taut\.models\.Cells"):
        taut.cell_accuracy(net[1:], x, y)
    with pytest.raises(DataError, match="leaves the pixel range"):
        taut.cell_accuracy(net, x + 2, y)
    with pytest.raises(DataError, match="label"):
        taut.cell_accuracy(net, x, y + 5)
    with pytest.raises(ConfigError, match="batch_size"):
        taut.cell_accuracy(net, x, y, batch_size=0)
    with pytest.raises(ModelError, match="does not accept"):
        taut.cell_accuracy(net, x[:, :, :1], y)
