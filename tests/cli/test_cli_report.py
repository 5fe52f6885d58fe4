"""`taut report` of a run, of one of its certifications, and of a part of a journal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Invoke

from taut.cli.again import commands
from taut.errors import DataError
from taut.store import RunFolder
from taut.training import apply_overrides, load

NAME = "certify-mnist-5k-test-eps0.06"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects the data of the pages that are written, on their way to the file."""
    import taut.report

    seen: list[Any] = []
    write = taut.report.write

    def listening(data: Any, path: Path) -> Path:
        seen.append(data)
        return write(data, path)

    monkeypatch.setattr("taut.report.write", listening)
    return seen


@pytest.fixture(scope="module")
def certified(invoke: Invoke, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certified") / "a"
    shutil.copytree(trained, path, ignore=shutil.ignore_patterns(".lock"))
    assert invoke("certify", path, "--first", 12, "--eps", "0.1").exit_code == 0
    assert invoke("certify", path, "--first", 12).exit_code == 0
    return path


def test_a_run_without_certification(invoke: Invoke, run: Path, pages: list[Any]) -> None:
    result = invoke("report", run)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"written to {run / 'report.html'}")
    (data,) = pages
    assert len(data.metrics) == 3
    assert not data.verdicts
    assert data.summary["seconds"] is None  # those of training are no certification time
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_the_latest_certification_with_its_run(
    invoke: Invoke, certified: Path, tmp_path: Path, pages: list[Any]
) -> None:
    page = tmp_path / "page.html"
    result = invoke("report", certified, "--out", page, "--json")
    assert json.loads(result.stdout) == {"report": str(page), "bytes": page.stat().st_size}
    (data,) = pages
    assert data.eps == 0.06
    assert len(data.verdicts) == 12
    assert len(data.metrics) == 3
    assert data.config["recipe"]["train"]["epochs"] == 3
    assert data.config["certification"]["eps"] == 0.06
    assert data.class_names == tuple("0123456789")
    broken = {v.index for v in data.verdicts if v.counterexample is not None}
    assert set(data.adversarial_predictions) == broken
    assert set(data.images) <= set(range(12))
    assert data.images
    text = page.read_text()
    assert "taut certify" in text
    assert "http://" not in text.split("<script")[0]


def test_one_of_several_certifications(
    invoke: Invoke, certified: Path, tmp_path: Path, pages: list[Any]
) -> None:
    other = "certify-mnist-5k-test-eps0.1"
    page = tmp_path / "page.html"
    assert invoke("report", certified, "--certification", other, "--out", page).exit_code == 0
    assert invoke("report", certified / other, "--out", page).exit_code == 0
    assert [data.eps for data in pages] == [0.1, 0.1]
    assert [len(data.metrics) for data in pages] == [3, 3]


def test_only_what_the_figures_count_is_shown(
    invoke: Invoke, certified: Path, tmp_path: Path, pages: list[Any]
) -> None:
    shutil.copytree(certified, tmp_path / "a")
    assert invoke("certify", tmp_path / "a", "--first", 5).exit_code == 0
    assert invoke("report", tmp_path / "a").exit_code == 0
    (data,) = pages
    assert [v.index for v in data.verdicts] == list(range(5))
    assert set(data.images) <= set(range(5))


def test_missing_data_is_said_and_leaves_the_rest(
    invoke: Invoke, certified: Path, tmp_path: Path, pages: list[Any], monkeypatch: Any
) -> None:
    def missing(*_: object) -> None:
        raise DataError("the package is gone")

    monkeypatch.setattr("taut.api.loading.load_data", missing)
    result = invoke("report", certified, "--out", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "the report has no images: the package is gone" in result.stderr
    assert len(pages[0].verdicts) == 12
    assert not pages[0].images


def test_other_weights_than_those_certified(
    invoke: Invoke, certified: Path, tmp_path: Path
) -> None:
    import taut
    from taut.store import save_weights

    shutil.copytree(certified, tmp_path / "a")
    fresh = taut.build_model("dm-small-crown8-16").state_dict()
    truth = {"name": "dm-small-crown8-16", "input_shape": [1, 28, 28], "classes": 10}
    save_weights(tmp_path / "a" / "model.safetensors", fresh, truth)
    result = invoke("report", tmp_path / "a")
    assert result.exit_code == 2
    assert "other weights than those that were certified" in result.stderr


def test_the_page_can_be_opened(invoke: Invoke, run: Path, monkeypatch: Any) -> None:
    shown: list[str] = []
    monkeypatch.setattr("typer.launch", shown.append)
    assert invoke("report", run, "--open").exit_code == 0
    assert shown == [str((run / "report.html").resolve())]


def test_the_commands_make_the_run_again(certified: Path, tmp_path: Path) -> None:
    changed = apply_overrides(load("demo"), ["train.epochs=3", "method.kappa_end=0.25"])
    with RunFolder.create(tmp_path / "x", "train", changed.to_dict(), 0) as run:
        made, report = commands(run, None)
    assert report == f"taut report {tmp_path / 'x'}"
    words = made.split()
    assert words[:3] == ["taut", "train", "demo"]
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert set(sets) == {"train.epochs=3", "method.kappa_end=0.25"}
    assert apply_overrides(load("demo"), sets) == changed
    training = RunFolder.open(certified)
    _, usual, _ = commands(training, RunFolder.open(certified / NAME))
    assert usual == f"taut certify {certified} --first 12"
    _, other, _ = commands(training, RunFolder.open(certified / "certify-mnist-5k-test-eps0.1"))
    assert other == f"taut certify {certified} --eps 0.1 --first 12"
