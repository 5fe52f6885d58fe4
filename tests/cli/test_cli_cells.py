"""A network on cells from training to its report: figures recounted, errors in order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import RECIPE, Invoke

import taut
from taut.store import Journal, RunFolder, save_weights

N, EPS, FIRST = 3, 0.15, 24
NAME = f"certify-mnist-5k-test-eps{EPS}"


@pytest.fixture(scope="module")
def certified(invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on cells with the words of its certification; copy it to write to it."""
    folder = tmp_path_factory.mktemp("cells")
    recipe = RECIPE.replace("[method]", f"[model.options]\ncells = {N}\n\n[method]")
    recipe = recipe.replace('name = "ibp"\nkappa_end = 0.8', 'name = "natural"')
    recipe = recipe.replace("epochs = 3", "epochs = 2").replace("length = 3", "length = 2")
    (folder / "tiny.toml").write_text(recipe)
    assert invoke("train", folder / "tiny.toml", "--out", folder / "a").exit_code == 0
    result = invoke("certify", folder / "a", "--first", FIRST, "--eps", EPS)
    assert result.exit_code == 0, result.output
    return folder / "a", result.stdout


def images() -> tuple[np.ndarray, np.ndarray]:
    """The certified digits as grey levels (B, 1, 28, 28), and their labels."""
    found = taut.load_data("mnist-5k", "test").first(FIRST)
    return found.images.numpy().astype(int), found.labels.numpy()


def cells(levels: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.minimum(levels * N // 255, N - 1)
    return found


def test_the_summary_tells_how_far_an_adversary_reaches(certified: tuple[Path, str]) -> None:
    run, printed = certified
    told = json.loads((run / NAME / "summary.json").read_text())
    levels, labels = images()
    reach = EPS * 255  # 38.25 grey levels, so that no end lies on an edge at 85 or 170
    low = (np.maximum(levels - reach, 0) * N // 255).astype(int)
    high = np.minimum(np.minimum(levels + reach, 255) * N // 255, N - 1).astype(int)
    counts = (low != high).reshape(FIRST, -1).sum(1)
    model = taut.load_model(run)
    emitted = torch.from_numpy(cells(levels) / (N - 1)).float()
    with torch.no_grad():  # what lies behind the first layer, on cells computed here
        right = int((model[1:](emitted).argmax(1).numpy() == labels).sum())  # type: ignore[index]
    assert told["cells"] == {
        "grid": {"emit": "levels", "n": N, "offset": 0.0},
        "cell_accuracy": right / FIRST,
        "pixels": 784,
        "straddling_share": pytest.approx(counts.sum() / FIRST / 784),
        "straddling_mean": pytest.approx(counts.sum() / FIRST),
        "straddling_most": counts.max(),
        "without_straddling": (counts == 0).sum(),
    }
    assert RunFolder.open(run).read_summary()["cells"] == told["cells"]
    share = f"{100 * told['cells']['straddling_share']:.1f} % of the pixel values straddle"
    (line,) = [line for line in printed.splitlines() if line.startswith("cells ")]
    assert share in line
    assert f"cell accuracy {100 * right / FIRST:.1f} %, no bound" in line


def test_clean_attacked_and_verified_errors_ascend(certified: tuple[Path, str]) -> None:
    run, _ = certified
    told = RunFolder.open(run / NAME).read_summary()
    with Journal(run / NAME / "journal.sqlite") as journal:
        verdicts = journal.verdicts()
    levels, labels = images()
    model = taut.load_model(run)
    with torch.no_grad():
        clean = model(torch.from_numpy(levels / 255).float()).argmax(1).numpy() != labels
    broken = clean.copy()
    for v in verdicts:
        if v.counterexample is None:
            continue
        near = v.counterexample.double().numpy() * 255
        assert np.abs(near - levels[v.index]).max() <= EPS * 255 + 1e-4
        with torch.no_grad():
            assert int(model(v.counterexample[None]).argmax()) != labels[v.index]
        broken[v.index] = True
    unproved = np.array([v.status != taut.Status.VERIFIED for v in verdicts])
    errors = [e.mean() for e in (clean, broken, unproved)]
    assert errors[0] < errors[1] <= errors[2] < 1
    assert not (clean & ~broken).any()
    assert not (broken & ~unproved).any()
    names = ("natural", "attacked", "certified")
    assert [1 - told[f"{name}_accuracy"] for name in names] == pytest.approx(errors)
    assert 1 - told["cells"]["cell_accuracy"] == pytest.approx(errors[0])  # below the attack's


def test_the_report_marks_what_straddles_and_what_was_flipped(
    invoke: Invoke, certified: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import taut.report

    seen: list[Any] = []
    write = taut.report.write
    monkeypatch.setattr("taut.report.write", lambda data, p: seen.append(data) or write(data, p))
    page = tmp_path / "page.html"
    assert invoke("report", certified[0], "--out", page).exit_code == 0
    (data,) = seen
    levels, _ = images()
    by_index = {v.index: v for v in data.verdicts}
    assert data.cells
    for index, view in data.cells.items():
        low = np.maximum(levels[index] - EPS * 255, 0) * N // 255
        high = np.minimum(np.minimum(levels[index] + EPS * 255, 255) * N // 255, N - 1)
        assert np.array_equal(view.straddling, low != high)
        assert np.array_equal(view.levels, (cells(levels[index]) / (N - 1)).astype(np.float32))
        other = by_index[index].counterexample
        assert (view.moved is None) == (other is None)
        if other is not None:
            near = np.minimum(other.double().numpy() * N + 1e-5, N - 1).astype(int)
            assert np.array_equal(view.moved, near - cells(levels[index]))
            assert view.moved.any()
    assert any(view.moved is not None for view in data.cells.values())
    text = page.read_text()
    assert '<section id="cells">' in text
    assert "Soundly verified error" in text


def test_a_report_of_fewer_images_shows_cells_of_these(
    invoke: Invoke, certified: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(certified[0], tmp_path / "a", ignore=shutil.ignore_patterns(".lock"))
    assert invoke("certify", tmp_path / "a", "--first", 4, "--eps", EPS).exit_code == 0
    told = RunFolder.open(tmp_path / "a").read_summary()["cells"]
    assert told["straddling_mean"] * 4 == int(told["straddling_mean"] * 4)
    assert told["without_straddling"] <= 4
    assert invoke("report", tmp_path / "a").exit_code == 0


def test_other_networks_have_no_such_figures(invoke: Invoke, tmp_path: Path) -> None:
    truth: dict[str, Any] = {
        "name": "dm-small-crown8-16",
        "input_shape": [1, 28, 28],
        "classes": 10,
    }
    save_weights(tmp_path / "m.safetensors", taut.build_model(truth["name"]).state_dict(), truth)
    words = ("--data", "mnist-5k", "--eps", 0.01, "--first", 2, "--stages", "ibp")
    result = invoke("certify", tmp_path / "m.safetensors", *words, "--json")
    assert result.exit_code == 0
    assert "straddle" not in result.output
    assert "cells" not in json.loads(result.stdout)
