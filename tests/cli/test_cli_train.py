"""`taut train`: the run folder, going on after a kill, and one code path with taut.fit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import Invoke, environment

import taut
from taut.store import RunFolder, read_weights
from taut.training import load

WORKER = Path(__file__).with_name("dying_worker.py")
FILES = {"config.json", "metrics.jsonl", "checkpoint.pt", "model.safetensors", "summary.json"}


def same(first: Path, second: Path) -> bool:
    one, other = (read_weights(path / "model.safetensors") for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_run_folder_holds_everything(trained: Path, recipe: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= FILES
    assert len(list(trained.glob("events.out.tfevents.*"))) == 1
    run = RunFolder.open(trained, "train")
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2, 3]
    held = json.loads((trained / "config.json").read_text())["recipe"]
    assert held == load(recipe).to_dict()
    summary, last = run.read_summary(), run.read_metrics()[-1]["validation"]
    assert summary["kind"] == "train"
    assert (summary["data"], summary["split"], summary["images"]) == ("mnist-5k", "validation", 500)
    assert summary["eps"] == 0.06
    assert summary["natural_accuracy"] == last["natural_accuracy"] > 0.5
    assert summary["certified_accuracy"] == last["certified_accuracy"] > 0.1
    assert summary["attacked_accuracy"] is None
    # the accuracy of the weights that were written, counted here
    held_out = taut.load_data("mnist-5k", "validation")
    with torch.no_grad():
        right = taut.load_model(trained)(held_out.pixels()).argmax(1) == held_out.labels
    assert summary["natural_accuracy"] == pytest.approx(right.double().mean().item())


def test_killed_in_an_epoch_and_resumed_ends_in_the_same_weights(
    invoke: Invoke, recipe: Path, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    killed = subprocess.run(
        [sys.executable, str(WORKER), "step", "2", "5", "train", str(recipe), "--out", str(path)],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (path / "model.safetensors").exists()
    result = invoke("certify", path)
    assert result.exit_code == 2
    assert "training is not finished" in result.stderr
    result = invoke("train", "--resume", path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["run"] == str(path)
    assert same(path, trained)
    rows, whole = (RunFolder.open(p).read_metrics() for p in (path, trained))
    for row in (*rows, *whole):
        del row["seconds"], row["images_per_second"]
    assert rows == whole


def test_a_finished_run_stays_as_it_is(invoke: Invoke, run: Path) -> None:
    figures = '{"natural_accuracy": 1, "attacked_accuracy": null, "certified_accuracy": null, '
    figures += '"images": 1, "eps": 0.5, "seconds": 0, "verdicts": {}, "mine": true}'
    (run / "summary.json").write_text(figures)  # say, of a certification
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.name != ".lock"}
    assert invoke("train", "--resume", run).exit_code == 0
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.name != ".lock"} == before


def test_the_default_folder_is_named_after_the_recipe(
    invoke: Invoke, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--set", "train.epochs=1", "--set", "train.batch_size=2000", "--threads", "1")
    result = invoke("train", recipe, *words, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["run"] == "runs/tiny"
    assert summary["epochs"] == 1
    assert "next: taut certify runs/tiny" in result.stderr
    assert json.loads(Path("runs/tiny/summary.json").read_text())["epochs"] == 1
    result = invoke("train", recipe)
    assert result.exit_code == 2
    assert "runs/tiny already holds a train run" in result.stderr
    assert "taut train --resume runs/tiny" in result.stderr


def test_a_scaled_run_keeps_the_scaled_recipe(invoke: Invoke, recipe: Path, tmp_path: Path) -> None:
    words = ("--set", "train.epochs=10", "--set", "schedule.length=6", "--scale", "0.2")
    result = invoke("train", recipe, *words, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["epochs"] == 2
    held = RunFolder.open(tmp_path / "a").recipe
    assert held["train"]["epochs"] == 2
    assert held["schedule"]["length"] == 2  # a ramp of 5 of 10 epochs, now 1 of 2
    assert invoke("train", "--resume", tmp_path / "a").exit_code == 0


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "1e9"])
def test_a_scale_that_makes_no_sense_is_one_line(
    invoke: Invoke, recipe: Path, tmp_path: Path, scale: str
) -> None:
    result = invoke("train", recipe, "--scale", scale, "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --scale ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_default_folders_keep_the_dots_and_the_paper_of_a_name() -> None:
    from taut.cli.train import default_folder

    assert default_folder("mnist-0.3-ibp") == Path("runs/mnist-0.3-ibp")
    assert default_folder("sabr/mnist-0.1-sabr") == Path("runs/sabr/mnist-0.1-sabr")
    assert default_folder("mine/mnist-0.1.toml") == Path("runs/mnist-0.1")


def test_fit_writes_the_same_run(trained: Path, recipe: Path, tmp_path: Path) -> None:
    chosen = load(recipe)
    result = taut.fit(
        "dm-small-crown8-16", "mnist-5k", chosen.method.build(),
        settings=chosen.settings(), out=tmp_path / "b",
    )  # fmt: skip
    assert same(tmp_path / "b", trained)
    assert torch.equal(
        result.model.state_dict()["0.weight"],
        read_weights(trained / "model.safetensors")["0.weight"],
    )
    for name in ("config.json", "summary.json"):
        one, other = (json.loads((p / name).read_text()) for p in (tmp_path / "b", trained))
        assert one.keys() == other.keys()
    held = RunFolder.open(tmp_path / "b").recipe
    theirs = RunFolder.open(trained).recipe
    for section in ("data", "model", "train", "schedule", "lr"):
        assert held[section] == theirs[section]
    assert {p.name.split(".")[0] for p in (tmp_path / "b").iterdir()} == {
        p.name.split(".")[0] for p in trained.iterdir()
    }


def test_an_error_before_the_first_epoch_leaves_the_place_free(
    invoke: Invoke, recipe: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    result = invoke("train", recipe, "--set", "train.lr=1e30", "--out", path)
    assert result.exit_code == 2
    assert "diverged in epoch 1" in result.stderr
    assert not path.exists()


def test_further_processes_of_a_run_only_read_its_folder(
    trained: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taut.api import fitting, planning

    plan = planning.from_recipe(load(recipe))
    with RunFolder.open(trained, write=True):  # the first process holds the lock
        monkeypatch.setenv("LOCAL_RANK", "1")
        with fitting.run_folder(plan, trained, resume=False) as run:
            assert not run.writable
            assert run.load_checkpoint()["epoch"] == 3


def test_a_scale_without_room_for_the_ramp_is_refused(
    invoke: Invoke, recipe: Path, tmp_path: Path
) -> None:
    ramp = ("--set", "schedule.start=1", "--set", "schedule.length=3")
    result = invoke("train", recipe, *ramp, "--scale", "0.05", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "too few for warm-up" in result.stderr
    assert not (tmp_path / "a").exists()
