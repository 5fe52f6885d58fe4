"""Programs of networks that read cells, against all their cells one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_mip import CLOSE, ROW, known, question
from torch import Tensor, nn

from taut.models import Cells
from taut.region import Box
from taut.verify import replay
from taut.verify.boxes import exact_box
from taut.verify.mip import MIP, Encoding, HiGHS

SHAPE = (2, 2, 2)


def model(seed: int, emit: str = "levels") -> nn.Module:
    torch.manual_seed(seed)
    cells = Cells([3, 7], emit=emit) if emit == "levels" else Cells(5, emit=emit)
    width = 8 if emit == "levels" else 16
    layers = nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 3)
    return nn.Sequential(cells, nn.Flatten(), *layers).double().eval()


def edges(net: nn.Module, channel: int) -> list[float]:
    rows = torch.atleast_2d(net[0].thresholds)
    return [t for t in rows[channel % len(rows)].tolist() if np.isfinite(t)]


def every_image(net: nn.Module, box: Box) -> Iterator[Tensor]:
    """One image for each combination of cells that the box meets."""
    low, up = box.lower[0].flatten().tolist(), box.upper[0].flatten().tolist()
    size = len(low) // SHAPE[0]
    choices = [
        [lower] + [t for t in edges(net, i // size) if lower < t <= upper]
        for i, (lower, upper) in enumerate(zip(low, up, strict=True))
    ]
    for pixels in itertools.product(*choices):
        yield torch.tensor(pixels, dtype=torch.float64).view(SHAPE)


def some_image(seed: int) -> Tensor:
    """An image in which a few pixels lie near the edges of cells."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, *SHAPE, generator=generator).double()


@pytest.mark.parametrize("emit", ["levels", "ends"])
def test_programs_find_the_worst_cells(emit: str) -> None:
    binaries = 0
    for seed in range(12):
        net, x = model(seed, emit), some_image(seed)
        box = exact_box(x, 0.12, (0.0, 1.0))
        with torch.no_grad():
            images = torch.stack(list(every_image(net, box)))
            expected = float((net(images) @ ROW).min())
        encoding = Encoding(*known(net, box))
        program = encoding.minimising(ROW)
        found = HiGHS().solve(program)
        assert encoding.exact
        assert 0 not in encoding.values, "pixels that only cells read need no variables"
        assert found.value == pytest.approx(expected, abs=CLOSE)
        assert found.bound <= expected
        assert found.point is not None
        image = encoding.image(found.point, box)
        assert bool(box.contains(image[None]).all())
        assert float((net(image[None])[0] @ ROW).detach()) == pytest.approx(expected, abs=CLOSE)
        crossed = encoding.crossed[0]
        combinations = np.prod(1 + np.bincount(crossed.pixel, minlength=8))
        assert combinations == len(images)
        binaries += len(crossed.choice)
    assert binaries > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_behind_cells_are_decided_as_all_cells_say(dtype: torch.dtype) -> None:
    seen = set()
    for seed in range(20):
        net, x = model(seed).to(dtype), some_image(seed).to(dtype)
        y = net(x).argmax(1)
        asked = question(net, x, y, 0.1)
        double = model(seed)
        with torch.no_grad():
            box = Box(asked.box.lower.double(), asked.box.upper.double())
            logits = double(torch.stack(list(every_image(double, box))))
        rest = logits.scatter(1, y.expand(len(logits))[:, None], -torch.inf).amax(1)
        least = float((logits[:, int(y)] - rest).min())
        (answer,) = MIP().decide(asked)
        assert answer.bound <= least + 1e-5
        assert answer.reason == ""
        assert (answer.point is not None) == (least < 0)
        if answer.point is not None:
            assert bool(asked.inner.contains(answer.point[None]).all())
            assert replay(net, x[0], int(y), 0.1, answer.point).reproduced
        seen.add(answer.point is None)
    assert seen == {True, False}


class Mixed(nn.Module):
    """Pixels read twice: as they are, and as cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells(4)
        self.raw, self.stepped = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.raw(x.flatten(1)) + self.stepped(self.cells(x).flatten(1))


def test_cells_and_pixels_move_together() -> None:
    for seed in range(6):
        torch.manual_seed(seed)
        net, x = Mixed().double().eval(), some_image(seed)
        box = exact_box(x, 0.3, (0.0, 1.0))
        row = ROW.numpy()
        by_pixel = row @ net.raw.weight.detach().numpy()
        by_cell = row @ net.stepped.weight.detach().numpy()
        expected = float(row @ (net.raw.bias + net.stepped.bias).detach().numpy())
        thresholds = net.cells.thresholds.double().numpy()
        values = net.cells.values.double().numpy()
        for i, (low, up) in enumerate(
            zip(box.lower.flatten().tolist(), box.upper.flatten().tolist(), strict=True)
        ):
            inside = thresholds[(thresholds > low) & (thresholds <= up)]
            first = int((thresholds <= low).sum())
            ends = [low, *inside, up]
            expected += min(
                by_pixel[i] * x_i + by_cell[i] * values[first + k]
                for k in range(len(inside) + 1)
                for x_i in (ends[k], ends[k + 1])
            )
        encoding = Encoding(*known(net, box))
        found = HiGHS().solve(encoding.minimising(ROW))
        assert found.value == pytest.approx(expected, abs=1e-6)
        image = encoding.image(found.point, box)
        assert bool(box.contains(image[None]).all())
        assert float((net(image[None])[0] @ ROW).detach()) == pytest.approx(expected, abs=1e-4)
