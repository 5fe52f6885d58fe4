"""`taut tune`: its table, its folder, going on after a kill, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import RECIPE, Invoke, environment

from taut.store import RunFolder

WORKER = Path(__file__).with_name("dying_worker.py")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe, on cells."""
    path = tmp_path_factory.mktemp("recipe") / "cells.toml"
    text = RECIPE.replace("epochs = 3", "epochs = 1").replace("length = 3", "length = 1")
    text = text.replace("[method]", '[model.options]\ncells = { n = 2, emit = "ends" }\n\n[method]')
    text = text.replace("[train]", "[train]\nvalidation_attack_images = 0")
    path.write_text(f"{text}\n[tune]\ncells = [3, 2]\nstop = false\n")
    return path


@pytest.fixture(scope="module")
def tuned(invoke: Invoke, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "t"
    result = invoke("tune", cells, "--by", "certified", "--out", path)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].split() == ["cells", "cell", "accuracy", "certified", "accuracy", "the", "loss",
                                "run"]  # fmt: skip
    table = json.loads((path / "tuning.json").read_text())
    for row, line in zip(table["trials"], lines[2:4], strict=True):
        assert line.split()[0] == str(row["n"])
        assert f"{100 * row['cell_accuracy']:.1f} %" in line
        assert f"{100 * row['certified_accuracy']:.1f} %" in line
        assert line.rstrip().endswith(f"n-{row['n']}")
    best = max(table["trials"], key=lambda row: row["certified_accuracy"])["n"]
    assert table["best"] == best
    assert f"best: {best} cells, by certified on validation images" in result.stdout
    assert "eps 0.06" in result.stdout
    assert f"next: taut certify {path / f'n-{best}'}" in result.stdout
    assert "2 cells" in result.stderr
    assert "3 cells" in result.stderr
    return path


def test_every_grid_has_a_run_that_other_commands_take(tuned: Path, invoke: Invoke) -> None:
    accuracy = {
        row["n"]: row["cell_accuracy"]
        for row in json.loads((tuned / "tuning.json").read_text())["trials"]
    }
    for n in (2, 3):
        run = RunFolder.open(tuned / f"n-{n}", "train")
        assert run.recipe["model"]["options"]["cells"] == {"n": n, "emit": "ends"}
        assert run.read_summary()["natural_accuracy"] == accuracy[n]
    result = invoke("certify", tuned / "n-2", "--first", "3", "--stages", "ibp", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 3
    result = invoke("certify", tuned)
    assert result.exit_code == 2
    assert "tune run, not a train run" in result.stderr


def test_a_killed_tuning_goes_on_by_the_same_command(
    tuned: Path, invoke: Invoke, cells: Path, tmp_path: Path
) -> None:
    words = ("tune", str(cells), "--by", "certified", "--out", str(tmp_path / "t"))
    killed = subprocess.run(
        [sys.executable, str(WORKER), "step", "1", "5", *words],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "t/tuning.json").exists()
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.pop("folder") == str(tmp_path / "t")
    assert found == json.loads((tuned / "tuning.json").read_text())
    assert found == json.loads((tmp_path / "t/tuning.json").read_text())


def test_the_default_folder_is_named_after_the_recipe(
    tuned: Path, invoke: Invoke, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--cells", "2", "--set", "train.batch_size=2000", "--json")
    result = invoke("tune", cells, *words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["folder"] == "runs/cells-cells"
    assert found["by"] == "cell-accuracy"
    assert found["trials"][0]["certified_accuracy"] is None
    assert "next: taut certify runs/cells-cells/n-2" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cells", "2,x"], "--cells must be whole numbers separated by commas"),
        (["--cells", "2,2"], "different numbers of cells"),
        (["--cells", "0"], "numbers of cells from 1"),
        (["--cells", "9"], "9 cells are narrower than a ball of radius certify.eps = 0.06"),
        (["--by", "luck"], "--by must be cell-accuracy or certified"),
        (["--set", "tune.cells=[]"], "no numbers of cells to try"),
        (["--set", "model.options.cells={ thresholds = [0.5] }"], "given by their thresholds"),
        (["--device", "tpu"], "train.device must be one of"),
        (["--scale", "0"], "--scale must be a number above 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    invoke: Invoke, cells: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = invoke("tune", cells, "--out", tmp_path / "t", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "t").exists()


def test_a_recipe_without_cells_and_a_folder_with_something_else_are_refused(
    invoke: Invoke, cells: Path, recipe: Path, tuned: Path, tmp_path: Path
) -> None:
    for words, message in (
        (("tune", recipe, "--cells", "2"), "has no cells to choose"),
        (("tune", cells, "--out", tuned / "n-2"), "choose another --out"),
        (("tune", cells, "--out", tuned), "holds another run (recipe.tune.by"),
        (("tune", "nosuch"), "unknown recipe 'nosuch'"),
        (("tune", cells, "--out", tmp_path, "--set", "data.name=letters"), "unknown data set"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
