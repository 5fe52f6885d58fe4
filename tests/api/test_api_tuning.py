"""`taut.tune`: which grids are tried, from what they start, what is measured, and going on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut
from taut.api import planning, tuning
from taut.errors import ConfigError, RunError
from taut.models import Cells
from taut.store import RunFolder, read_weights
from taut.training import Recipe, Settings, loads

TEXT = """
[data]
name = "mnist-5k"
[model]
name = "dm-small-crown8-16"
[model.options]
cells = { n = 2, emit = "ends" }
[method]
name = "natural"
[train]
epochs = 2
eps = 0.05
batch_size = 50
lr = 2e-3
threads = 1
device = "cpu"
validation_attack_images = 0
[schedule]
kind = "constant"
[certify]
eps = 0.05
[tune]
cells = [3, 1]
"""


def digits(count: int, split: str, seed: int) -> taut.ImageSet:
    """Bright upper or lower halves, noisy: one cell says nothing, several tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    pixels = torch.randint(0, 120, (count, 1, 28, 28), generator=generator)
    for k in range(10):
        pixels[labels == k, :, 2 * k : 2 * k + 5] += 110
    return taut.ImageSet.from_tensors(pixels.to(torch.uint8), labels, 10, split=split)


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"train": digits(300, "train", 1), "validation": digits(100, "validation", 2)}
    monkeypatch.setattr(planning, "load_data", lambda name, split, data_dir: sets[split])


@pytest.fixture
def recipe() -> Recipe:
    return loads(TEXT)


def same(first: Path, second: Path) -> bool:
    one, other = (read_weights(path / "model.safetensors") for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_grids_are_tried_from_the_coarsest_on_and_the_best_on_held_out_images_wins(
    recipe: Recipe, tmp_path: Path
) -> None:
    seen: list[int] = []

    @contextmanager
    def watch(n: int, settings: Settings) -> Iterator[tuple[None, None]]:
        seen.append(n)
        yield None, None

    steadfast = replace(recipe, tune=replace(recipe.tune, stop=False))
    found = taut.tune(steadfast, [5, 1, 3], out=tmp_path / "t", watch=watch)
    assert [trial.n for trial in found.trials] == seen == [1, 3, 5]
    assert found.untried == ()
    held = digits(100, "validation", 2)
    for trial in found.trials:
        model = taut.load_model(trial.run)
        assert isinstance(model, nn.Sequential)
        assert isinstance(model[0], Cells)
        assert model[0].configuration() == {"n": trial.n, "emit": "ends"}
        expected = taut.cell_accuracy(model, held.pixels(), held.labels)
        assert trial.cell_accuracy == pytest.approx(expected)
        assert trial.certified_accuracy is None
    one = found.trials[0]
    assert one.cell_accuracy == pytest.approx(0.1)  # one cell: all images are the same
    assert found.best.cell_accuracy == max(t.cell_accuracy for t in found.trials) > 0.5
    table = json.loads((tmp_path / "t/tuning.json").read_text())
    assert table["best"] == found.best.n
    assert [row["n"] for row in table["trials"]] == seen
    assert table["trials"][-1]["run"] == f"n-{seen[-1]}"
    assert RunFolder.open(tmp_path / "t").kind == "tune"
    assert RunFolder.open(one.run, "train").recipe["model"]["options"]["cells"]["n"] == 1


def test_every_grid_starts_with_fresh_weights(recipe: Recipe, tmp_path: Path) -> None:
    """What was trained before leaves nothing: biases and buffers are new too."""
    normed = replace(recipe, model=replace(recipe.model, name="cnn7-narrow"))
    steadfast = replace(recipe, tune=replace(recipe.tune, stop=False))
    starts = []
    for n in (2, 3):
        plan = planning.from_recipe(tuning.on_cells(normed, n))
        starts.append({k: v for k, v in plan.model.state_dict().items() if k[0] != "0"})
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert any("running_mean" in key for key in starts[0])
    together = tuning.tune(steadfast, [2, 3], out=tmp_path / "a")
    alone = tuning.tune(steadfast, [3], out=tmp_path / "b")
    assert same(together.trials[1].run, alone.trials[0].run)
    plan = planning.from_recipe(tuning.on_cells(recipe, 2))
    direct = taut.fit(
        plan.model, plan.train, "natural", settings=plan.settings, validation=plan.validation
    )
    written = read_weights(together.trials[0].run / "model.safetensors")
    state = direct.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in written.items())


def test_certified_accuracy_is_what_ibp_or_crown_ibp_proves(recipe: Recipe, tmp_path: Path) -> None:
    found = taut.tune(recipe, [1, 2, 4], by="certified", out=tmp_path / "t")
    assert len(found.trials) == 3  # the stop rule is that of cell accuracy
    held = digits(100, "validation", 2)
    for trial in found.trials:
        model, x, y = taut.load_model(trial.run), held.pixels(), held.labels
        box = taut.Box.around(x, 0.05)
        proved = torch.zeros(100, dtype=torch.bool)
        for method in ("ibp", "crown-ibp"):
            with torch.no_grad():
                proved |= taut.margins(model, box, y, method).amin(1) > 0
        with torch.no_grad():
            proved &= model(x).argmax(1) == y
        assert trial.certified_accuracy == pytest.approx(proved.double().mean().item())
        assert trial.score == trial.certified_accuracy
        assert trial.certified_accuracy <= trial.cell_accuracy
    scores = [trial.score for trial in found.trials]
    assert found.best.n == (1, 2, 4)[scores.index(max(scores))]


class Linear(nn.Module):
    """Two logits, linear in both ends, with a weight for each channel and end."""

    def __init__(self, upper: list[float], lower: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([*upper, *lower], dtype=torch.float32))

    def forward(self, ends: Tensor) -> Tensor:
        score = (ends.mean((2, 3)) * self.weight).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


def images(labels: list[int]) -> taut.ImageSet:
    pixels = torch.rand(len(labels), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return taut.ImageSet.from_tensors(pixels, torch.tensor(labels), 2)


def test_slopes_are_those_of_the_mean_loss_by_differences() -> None:
    data = images([0, 1, 1, 0, 1])
    torch.manual_seed(1)
    net = nn.Sequential(
        Cells(4, emit="ends"), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)
    ).double()
    upper, lower = tuning.slopes(net, data)
    ends = net[0](data.pixels().double())

    def loss(channel: int, shift: float) -> float:
        moved = ends.clone()
        moved[:, channel] += shift
        return float(F.cross_entropy(net[1:](moved), data.labels))

    with torch.no_grad():
        for c in range(3):
            for channel, found in ((c, upper[c]), (3 + c, lower[c])):
                slope = (loss(channel, 1e-5) - loss(channel, -1e-5)) / 2e-5
                assert found == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    ("upper", "lower", "stops"),
    [
        # all images have label 1, so the loss falls with the score: a positive weight is a
        # falling loss
        ([1, 1, 1], [-1, -1, -1], True),
        ([1, 0, 1], [0, -1, -1], True),  # no gain is no reason to go on
        ([1, 1, -1], [-1, -1, -1], False),  # lower upper ends would help one channel
        ([1, 1, 1], [-1, 1, -1], False),  # higher lower ends would
        ([-1, -1, -1], [1, 1, 1], False),
    ],
)
def test_it_stops_where_no_channel_gains_from_narrower_cells(
    upper: list[float], lower: list[float], stops: bool
) -> None:
    data = images([1, 1, 1, 1])
    net = nn.Sequential(Cells(3, emit="ends"), Linear(upper, lower))
    found = tuning.slopes(net, data)
    assert tuning.stops_at(*found) == stops
    signs = [[-1 if w > 0 else 1 if w < 0 else 0 for w in part] for part in (upper, lower)]
    assert [[(v > 0) - (v < 0) for v in part] for part in found] == signs


def test_cells_without_ends_have_no_slopes_and_never_stop() -> None:
    net = nn.Sequential(Cells(3), nn.Flatten(), nn.Linear(48, 2))
    assert tuning.slopes(net, images([0, 1])) == ((), ())
    assert not tuning.stops_at((), ())


def test_finer_grids_are_left_out_once_it_stops(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = iter([((1.0,), (0.0,)), ((-1.0,), (1.0,)), ((-1.0,), (1.0,)), ((-1.0,), (1.0,))])
    monkeypatch.setattr(tuning, "slopes", lambda model, data: next(rows))
    found = tuning.tune(recipe, [1, 2, 3, 4], out=tmp_path / "t")
    assert [trial.n for trial in found.trials] == [1, 2]
    assert [trial.stops for trial in found.trials] == [False, True]
    assert found.untried == (3, 4)
    assert not (tmp_path / "t/n-3").exists()
    assert json.loads((tmp_path / "t/tuning.json").read_text())["untried"] == [3, 4]
    steadfast = replace(recipe, tune=replace(recipe.tune, stop=False))
    assert len(tuning.tune(steadfast, [1, 2], out=tmp_path / "u").trials) == 2


def test_an_interrupted_tuning_goes_on_to_the_same_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steadfast = replace(recipe, tune=replace(recipe.tune, stop=False))
    whole = tuning.tune(steadfast, [2, 3, 4], out=tmp_path / "whole")

    @contextmanager
    def breaking(n: int, settings: Settings) -> Iterator[tuple[None, Any]]:
        def step(info: Any) -> None:
            if n == 3 and info.epoch == 2:
                raise KeyboardInterrupt

        yield None, step

    with pytest.raises(KeyboardInterrupt):
        tuning.tune(steadfast, [2, 3, 4], out=tmp_path / "part", watch=breaking)
    table = json.loads((tmp_path / "part/tuning.json").read_text())
    assert [row["n"] for row in table["trials"]] == [2]
    trained: list[tuple[int, int]] = []

    @contextmanager
    def noting(n: int, settings: Settings) -> Iterator[tuple[Any, None]]:
        yield (lambda row: trained.append((n, row["epoch"]))), None

    rest = tuning.tune(steadfast, [2, 3, 4], out=tmp_path / "part", watch=noting)
    assert trained == [(3, 2), (4, 1), (4, 2)]  # nothing that was done is done again
    assert rest.to_dict() == whole.to_dict()
    assert all(same(a.run, b.run) for a, b in zip(rest.trials, whole.trials, strict=True))
    trained.clear()
    assert tuning.tune(steadfast, [2, 3, 4], out=tmp_path / "part", watch=noting) == rest
    assert trained == []
    # another tuning does not fit in there
    with pytest.raises(RunError, match=r"holds another run .*choose another --out"):
        tuning.tune(steadfast, [2, 3], out=tmp_path / "part")


def test_what_makes_no_sense_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    plain = replace(recipe, model=replace(recipe.model, options={}))
    edges = replace(recipe, model=replace(recipe.model, options={"cells": {"thresholds": [0.5]}}))
    bare = replace(recipe, tune=replace(recipe.tune, cells=()))
    many = replace(recipe, train=replace(recipe.train, devices=2))
    for given, cells, words in (
        (plain, [2], "has no cells to choose"),
        (edges, [2], "given by their thresholds"),
        (bare, None, "no numbers of cells to try"),
        (many, [2], "in one process"),
        (recipe, [0, 2], "numbers of cells from 1"),
        (recipe, [2, 5000], "from 1 to 1024"),
        (recipe, [2, 11], "11 cells are narrower .* try at most 10, or choose by certified"),
    ):
        with pytest.raises(ConfigError, match=words):
            tuning.tune(given, cells, out=tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert tuning.prepare(recipe, [2, 11], "certified").tune.cells == (2, 11)
    assert tuning.prepare(recipe).tune.cells == (1, 3)
    whole = tuning.on_cells(replace(recipe, model=replace(recipe.model, options={"cells": 7})), 4)
    assert whole.model.options == {"cells": {"n": 4}}
