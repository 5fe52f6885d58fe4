"""Everything a user can get wrong: exit code 2, one line, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import Invoke, environment

import taut
from taut.cli import app
from taut.errors import TautError
from taut.store import save_weights

RUN = "<run>"
TINY = "<recipe>"

WRONG = [
    # recipes
    (["train"], "name a recipe"),
    (["train", "nosuch"], "unknown recipe 'nosuch'"),
    (["train", TINY, "--set", "train.epoch=3"], "did you mean 'epochs'?"),
    (["train", TINY, "--set", "trian.epochs=3"], "unknown section 'trian'"),
    (["train", TINY, "--set", "train.epochs=many"], "train.epochs must be a whole number"),
    (["train", TINY, "--set", "train.eps=-0.1"], "train.eps must be a finite number >= 0"),
    (["train", TINY, "--set", "train.eps=nan"], "train.eps must be a finite number >= 0"),
    (["train", TINY, "--set", "nonsense"], "'nonsense' is no setting"),
    (["train", TINY, "--set", "method.kappa_end=2"], "method.kappa_end must lie in [0, 1]"),
    (["train", TINY, "--set", "model.name=lenet"], "no model is called 'lenet'"),
    (["train", TINY, "--set", "model.options.width=2"], "unknown key 'model.options.width'"),
    (["train", TINY, "--set", "model.options.mean=0.5"], "must be a list of numbers"),
    (["train", TINY, "--set", "model.options.mean=[0.5]"], "give mean and std together"),
    (["train", TINY, "--set", "data.augment=rotate"], "unknown augmentation 'rotate'"),
    (["train", TINY, "--set", "data.name=letters"], "unknown data set 'letters'"),
    (["train", TINY, "--set", "data.name=mnist", "--data-dir", "."], "taut data get mnist"),
    (["train", TINY, "--device", "tpu"], "train.device must be one of auto, cpu, cuda"),
    (["train", TINY, "--out", RUN], "already holds a train run"),
    (["train", TINY, "--resume", RUN], "leave out RECIPE, --set, --scale and --out"),
    (["train", "--resume", "nosuch"], "nosuch is no run folder"),
    (["train", "--resume", f"{RUN}/.."], "is no run folder"),
    # networks and their images
    (["certify", "nosuch"], "there is no run folder and no weights file nosuch"),
    (["certify", "."], "is no run folder"),
    (["certify", RUN, "--eps", "-0.1"], "eps must be a finite number >= 0"),
    (["certify", RUN, "--eps", "nan"], "eps must be a finite number >= 0"),
    (["certify", RUN, "--eps", "8/0"], "a fraction such as 8/255"),
    (["certify", RUN, "--eps", "much"], "a fraction such as 8/255"),
    (["certify", RUN, "--first", "501"], "mnist-5k test, which has 500"),
    (["certify", RUN, "--first", "none"], "invalid value for '--first'"),
    (["certify", RUN, "--split", "dev"], "mnist-5k has no split 'dev'"),
    (["certify", RUN, "--stages", "ibp,magic"], "unknown stage 'magic'"),
    (["certify", RUN, "--stages", "ibp,ibp"], "name each stage once"),
    (["certify", RUN, "--timeout", "0"], "timeout must be positive seconds"),
    (["certify", RUN, "--device", "tpu"], "--device must be auto, cpu or cuda"),
    (["certify", RUN, "--out", RUN], "holds a run of `taut train`"),
    (["certify", f"{RUN}/config.json", "--data", "mnist-5k", "--eps", "0"], "no safetensors file"),
    (["certify", f"{RUN}/model.safetensors", "--eps", "0.1"], "name one with --data"),
    (["certify", f"{RUN}/model.safetensors", "--data", "mnist-5k"], "give the radius with --eps"),
    (["attack", RUN, "--loss", "hinge"], "loss must be one of ce, margin"),
    (["attack", RUN, "--method", "cw"], "--method must be pgd, fgsm or flips"),
    (["attack", RUN, "--method", "fgsm", "--steps", "2"], "fgsm makes one step"),
    (["attack", RUN, "--method", "flips", "--step", "1"], "flips moves whole pixels"),
    (["attack", RUN, "--step", "-1"], "step must be positive"),
    (["bounds", RUN, "--method", "magic"], "unknown bounding method 'magic'"),
    (["bounds", RUN, "--lines", "curved"], "lines must be one of"),
    (["bounds", RUN, "--method", "ibp", "--lines", "tight"], "no lines to choose"),
    # looking things up
    (["methods", "magic"], "unknown method 'magic'"),
    (["models", "lenet"], "no model is called 'lenet'"),
    (["recipes", "lenet"], "unknown recipe 'lenet'"),
    (["data", "show", "letters"], "unknown data set 'letters'"),
    (["report", "nosuch"], "nosuch is no run folder"),
    (["report", RUN, "--certification", "x"], "is no run folder"),
    # the command line itself
    (["--nosuch"], "no such option: --nosuch"),
    (["prove"], "no such command 'prove'"),
    (["certify"], "missing argument"),
    (["certify", RUN, "--frist", "3"], "no such option: --frist"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_a_mistake_is_told_in_one_line(
    invoke: Invoke, trained: Path, recipe: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(path.name for path in trained.iterdir())
    filled = [word.replace(RUN, str(trained)).replace(TINY, str(recipe)) for word in words]
    result = invoke(*filled)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in line
    assert list(tmp_path.iterdir()) == []  # and nothing is left behind
    assert [n for n in sorted(p.name for p in trained.iterdir()) if n != ".lock"] == [
        n for n in before if n != ".lock"
    ]


def test_truncated_data_is_told_in_one_line(invoke: Invoke, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\xea\x60")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    result = invoke("train", recipe, "--set", "data.name=mnist", "--data-dir", tmp_path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "images-idx3-ubyte" in line
    assert "taut data get mnist" in line


def test_weights_of_another_network(invoke: Invoke, run: Path) -> None:
    other = taut.build_model("dm-small-p1")
    truth = {"name": "dm-small-crown8-16", "input_shape": [1, 28, 28], "classes": 10}
    save_weights(run / "model.safetensors", other.state_dict(), truth)
    result = invoke("certify", run)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "a weights file of another network" in line


def test_images_of_another_shape(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    photos = taut.build_model("dm-small-p1", (3, 32, 32))
    truth = {"name": "dm-small-p1", "input_shape": [3, 32, 32], "classes": 10}
    save_weights(tmp_path / "m.safetensors", photos.state_dict(), truth)
    result = invoke("certify", tmp_path / "m.safetensors", "--data", "mnist-5k", "--eps", "0.1")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "images of shape 1 x 28 x 28 and the network takes 3 x 32 x 32" in line


def test_results_of_other_settings_are_kept(invoke: Invoke, run: Path) -> None:
    words = ["certify", run, "--first", 2, "--stages"]
    assert invoke(*words, "ibp").exit_code == 0
    result = invoke(*words, "crown-ibp")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "cascade.stages" in line
    assert "--overwrite" in line
    model = taut.load_model(run)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    architecture = {"name": "dm-small-crown8-16", "input_shape": [1, 28, 28], "classes": 10}
    save_weights(run / "model.safetensors", model.state_dict(), architecture)
    (line,) = invoke(*words, "ibp").stderr.splitlines()
    assert "other weights" in line
    assert invoke(*words, "ibp", "--overwrite").exit_code == 0


def test_a_command_that_failed_leaves_the_folder_free(invoke: Invoke, run: Path) -> None:
    assert invoke("certify", run, "--first", 2, "--stages", "magic").exit_code == 2
    assert invoke("certify", run, "--first", 2, "--stages", "ibp").exit_code == 0


def test_ctrl_c_says_how_to_go_on(
    invoke: Invoke, run: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taut.api.fitting.run_loop", stop)
    result = invoke("train", recipe, "--out", tmp_path / "new")
    assert result.exit_code == 130
    (line,) = result.stderr.splitlines()
    assert line == f"interrupted; go on with `taut train --resume {tmp_path / 'new'}`"
    monkeypatch.setattr("taut.api.results.certify", stop)
    result = invoke("certify", run, "--first", 2)
    assert result.exit_code == 130
    (line,) = result.stderr.splitlines()
    assert "the same command goes on" in line
    monkeypatch.setattr("taut.models.size", stop)
    result = invoke("models")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("taut.models.size", broken)
    assert isinstance(CliRunner().invoke(app, ["models"]).exception, ZeroDivisionError)


def test_the_installed_command_prints_one_line_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taut.cli", "certify", "nosuch"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no run folder")
    assert done.stderr.count("\n") == 1


def test_messages_of_several_lines_become_one(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TautError("first\n   second")

    monkeypatch.setattr("taut.models.size", fail)
    assert invoke("models").stderr == "error: first second\n"
