"""Networks that read pixels through cells, written to ONNX files and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_helpers import model_of, node, run, write
from torch import nn

from taut.bounds import METHODS
from taut.errors import UnsupportedOperator
from taut.formats.onnx import load_onnx, save_onnx
from taut.graph import trace
from taut.models import Cells
from taut.operators import Steps
from taut.region import Box

GRIDS: dict[str, dict[str, Any]] = {
    "levels": {"n": 5},
    "many": {"n": 255},
    "ends": {"n": 5, "emit": "ends"},
    "channels": {"n": [3, 6], "offset": 0.5},
    "ends of channels": {"n": [3, 6], "emit": "ends"},
    "learned": {"thresholds": [0.3, 0.6, 0.61], "learn": True},
}
SHAPE = (2, 4, 4)


def network(grid: str) -> nn.Module:
    cells = Cells(**GRIDS[grid])
    layers = [nn.Conv2d(cells.channels(2), 3, 3, padding=1), nn.ReLU(), nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(cells, *layers, nn.Linear(48, 4)).eval()


def pixels(net: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Return images of grey levels, thresholds and the numbers beside these."""
    cells = net[0]  # type: ignore[index]
    t = cells.thresholds.detach().to(dtype).flatten()
    t = t[t.isfinite()]
    beside = [torch.nextafter(t, torch.full_like(t, end)) for end in (-1.0, 2.0)]
    pool = torch.cat([torch.arange(256, dtype=dtype) / 255, t, *beside])
    g = torch.Generator().manual_seed(2)
    return pool[torch.randint(len(pool), (64, *SHAPE), generator=g)]


@pytest.mark.parametrize(
    ("grid", "dtype"), [*((grid, torch.float32) for grid in GRIDS), ("channels", torch.float64)]
)
def test_cells_are_the_same_everywhere(grid: str, dtype: torch.dtype, tmp_path: Path) -> None:
    net = network(grid).to(dtype)
    path = tmp_path / "net.onnx"
    save_onnx(net, path, SHAPE)
    x = pixels(net, dtype)
    with torch.no_grad():
        wanted = net(x)
        loaded = load_onnx(path)
        outside = run(path, x.numpy()) if dtype == torch.float32 else _reference(path, x)
        scale = 1e-5 * float(wanted.abs().max())  # a jump of one cell is far more
        for found in (loaded(x), torch.from_numpy(outside[0])):
            assert found.dtype == dtype
            torch.testing.assert_close(found, wanted, rtol=0, atol=scale)
        ours, theirs = (trace(m, SHAPE).instance() for m in (net, loaded))
        steps = [n.operator for n in theirs.nodes if isinstance(n.operator, Steps)]
        mine = next(n.operator for n in ours.nodes if isinstance(n.operator, Steps))
        assert len(steps) == 1
        assert torch.equal(steps[0].cell(x), mine.cell(x))
        box, y = Box.around(x[:6].clamp(0, 1), 0.04), wanted[:6].argmax(1)
        for name in ("crown", "deepz"):  # intervals know of ends that move together only here
            one, two = (METHODS[name].margins(m, box, y) for m in (ours, theirs))
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def _reference(path: Path, x: torch.Tensor) -> list[np.ndarray]:
    return ReferenceEvaluator(onnx.load(path)).run(None, {"input": x.numpy()})


def stairs(table: list[float], *, behind: bool = False, counted: bool = True, kind: int = 7) -> Any:
    nodes = [
        node("Relu", "x", "r"),
        node("Unsqueeze", f"{'r' if behind else 'x'} last", "u"),
        node("GreaterOrEqual", "u t", "g"),
        node("Cast", "g", "c", to=1),
        node("ReduceSum", "c last", "s", keepdims=0),
        node("Cast", "s" if counted else "c", "n", to=kind),
        node("Cast", "n", "k", to=7),
        node("Gather", "v k", "y"),
    ]
    constants = {
        "last": np.array([2]),
        "t": np.array([0.2, 0.5, 0.9], np.float32),
        "v": np.array(table, np.float32),
    }
    return model_of(nodes, (1, 6), constants)


def test_stairs_of_other_writers(tmp_path: Path) -> None:
    model = stairs([-1.0, 0.5, 0.5, 7.0])
    loaded = load_onnx(write(tmp_path / "net.onnx", model))
    x = np.array([[0.0, 0.2, 0.49, 0.5, 0.9, 1.0]], np.float32)
    (wanted,) = run(model, x)
    assert wanted.tolist() == [[-1.0, 0.5, 0.5, 0.5, 7.0, 7.0]]
    assert np.array_equal(loaded(torch.from_numpy(x)).numpy(), wanted)
    save_onnx(loaded, tmp_path / "again.onnx")
    assert np.array_equal(run(tmp_path / "again.onnx", x)[0], wanted)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (stairs([3.0, 2.0, 1.0, 0.0]), "whose values descend"),
        (stairs([0.0, 1.0]), "in a table of shape"),
        (stairs([0.0, 1.0, 2.0, 3.0], behind=True), "something else than raw pixels"),
        (stairs([0.0, 1.0, 2.0, 3.0], counted=False), "but for its first axis"),
        (stairs([0.0, 1.0, 2.0, 3.0], kind=9), "to the element type 9"),  # truth values
        (stairs([0.0, 1.0, 2.0, 3.0], kind=3), "to the element type 3"),  # eight bits
    ],
)
def test_what_is_no_staircase_is_refused(model: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", model)
    with pytest.raises(UnsupportedOperator, match=message):
        load_onnx(path)


def test_comparisons_alone_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", "x last", "u"),
        node("GreaterOrEqual", "u t", "g"),
        node("Cast", "g", "c", to=1),
        node("Relu", "c", "y"),
    ]
    constants = {"last": np.array([2]), "t": np.array([0.2, 0.5], np.float32)}
    path = write(tmp_path / "net.onnx", model_of(nodes, (1, 6), constants))
    with pytest.raises(UnsupportedOperator, match="not counted and looked up"):
        load_onnx(path)


def test_what_is_added_before_counting_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", "x last", "u"),
        node("GreaterOrEqual", "u t", "g"),
        node("Cast", "g", "c", to=7),
        node("Add", "c first", "a"),
        node("ReduceSum", "a last", "s", keepdims=0),
        node("Gather", "v s", "y"),
    ]
    constants = {
        "last": np.array([4]),
        "t": np.array([0.5], np.float32),
        "first": np.array([0, 2]).reshape(2, 1, 1),
        "v": np.array([0.0, 1.0, 10.0, 20.0], np.float32),
    }
    path = write(tmp_path / "net.onnx", model_of(nodes, (1, 2, 2, 1), constants))
    with pytest.raises(UnsupportedOperator, match="not counted yet"):
        load_onnx(path)
