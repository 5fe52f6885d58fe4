"""`taut certify`, `attack` and `bounds`: layout, figures, going on, what a kill leaves."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import Invoke, environment

import taut
from taut.store import Journal, check_summary
from taut.verify import Certification

WORKER = Path(__file__).with_name("dying_worker.py")
FIRST = 24
NAME = "certify-mnist-5k-test-eps0.06"


def verdicts(folder: Path) -> list[taut.Verdict]:
    with Journal(folder / "journal.sqlite") as journal:
        return journal.verdicts()


def decided(verdict: taut.Verdict) -> tuple[object, ...]:
    return (verdict.index, verdict.label, verdict.predicted, verdict.status, verdict.stage,
            verdict.reason)  # fmt: skip


def test_figures_are_those_of_the_api(invoke: Invoke, run: Path) -> None:
    result = invoke("certify", run, "--first", FIRST, "--json")
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures["folder"] == str(run / NAME)
    images = taut.load_data("mnist-5k", "test").first(FIRST)
    found = taut.certify(
        taut.load_model(run), images.pixels(), images.labels, 0.06,
        cascade=taut.Cascade(attack=taut.PGD(steps=5, loss="margin", targets=3)),
    )  # fmt: skip
    expected = found.summary()
    for key in ("natural_accuracy", "attacked_accuracy", "certified_accuracy", "images", "eps",
                "verdicts", "certified_interval", "unknown"):  # fmt: skip
        assert figures[key] == expected[key], key
    assert 0 < figures["certified_accuracy"] < figures["natural_accuracy"]
    assert [decided(v) for v in verdicts(run / NAME)] == [decided(v) for v in found.verdicts]
    written = json.loads((run / NAME / "summary.json").read_text())
    assert {**written, "folder": str(run / NAME)} == figures
    check_summary(written, "summary.json")
    top = json.loads((run / "summary.json").read_text())
    assert top == {**written, "certification": NAME}
    assert set(figures["stage_seconds"]) <= {"clean", "attack", "ibp", "crown-ibp", "crown"}
    assert sum(figures["stage_seconds"].values()) <= figures["seconds"]


def test_a_second_call_decides_only_what_is_open(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = taut.certify

    def listening(*args: object, indices: list[int], **options: object) -> Certification:
        asked.extend(indices)
        return real(*args, indices=indices, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("taut.api.results.certify", listening)
    assert invoke("certify", run, "--first", 6).exit_code == 0
    assert asked == list(range(6))
    first = verdicts(run / NAME)
    assert invoke("certify", run, "--first", 9).exit_code == 0
    assert asked == list(range(9))
    assert verdicts(run / NAME)[:6] == first
    result = invoke("certify", run, "--first", 4, "--json")
    figures = json.loads(result.stdout)
    assert asked == list(range(9))
    assert (
        figures["images"] == sum(n for c in figures["verdicts"].values() for n in c.values()) == 4
    )
    assert "stage_seconds" not in figures  # nothing was measured in this call
    assert len(verdicts(run / NAME)) == 9
    assert invoke("certify", run, "--first", 2, "--overwrite").exit_code == 0
    assert asked == [*range(9), 0, 1]
    assert len(verdicts(run / NAME)) == 2


def test_a_call_with_nothing_to_do_keeps_the_times_that_were_measured(
    invoke: Invoke, run: Path
) -> None:
    assert invoke("certify", run, "--first", 5).exit_code == 0
    written = json.loads((run / NAME / "summary.json").read_text())
    assert "stage_seconds" in written
    assert invoke("certify", run, "--first", 5).exit_code == 0
    assert json.loads((run / NAME / "summary.json").read_text()) == written
    assert invoke("certify", run, "--first", 3).exit_code == 0  # another question, other times
    assert "stage_seconds" not in json.loads((run / NAME / "summary.json").read_text())


def test_killed_and_called_again_gives_the_same_verdicts(invoke: Invoke, run: Path) -> None:
    words = ["certify", str(run), "--first", str(FIRST), "--batch-size", "8"]
    assert invoke(*words).exit_code == 0
    whole = verdicts(run / NAME)
    shutil.rmtree(run / NAME)
    killed = subprocess.run(
        [sys.executable, str(WORKER), "verdict", "11", *words],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = verdicts(run / NAME)
    assert len(kept) == 10  # all that were committed, and not the one in flight
    assert not (run / NAME / "summary.json").exists()
    assert invoke(*words).exit_code == 0
    resumed = verdicts(run / NAME)
    assert [v for v in resumed if v.index in {k.index for k in kept}] == kept
    assert [decided(v) for v in resumed] == [decided(v) for v in whole]
    for one, other in zip(resumed, whole, strict=True):
        assert one.margin == pytest.approx(other.margin, rel=1e-4, abs=1e-5)
        assert (one.counterexample is None) == (other.counterexample is None)
    figures = json.loads((run / "summary.json").read_text())
    assert figures["images"] == FIRST
    assert figures["seconds"] >= sum(v.seconds for v in kept)


def test_several_certifications_stand_side_by_side(invoke: Invoke, run: Path) -> None:
    for words in (["--eps", "0.01"], ["--eps", "2/255", "--split", "validation"]):
        assert invoke("certify", run, "--first", 3, "--stages", "ibp", *words).exit_code == 0
    names = {path.name for path in run.glob("certify-*")}
    assert names == {"certify-mnist-5k-test-eps0.01", "certify-mnist-5k-validation-eps2-255"}
    top = json.loads((run / "summary.json").read_text())
    assert top["certification"] == "certify-mnist-5k-validation-eps2-255"
    assert (top["split"], top["eps"], top["attacked_accuracy"]) == ("validation", 2 / 255, None)
    assert set(top["verdicts"]) == {"clean", "ibp"}


def test_giving_up_is_a_setting_of_branch_and_bound(invoke: Invoke, run: Path) -> None:
    words = ["certify", run, "--first", 4, "--eps", "0.03", "--stages", "branch"]
    assert "--give-up" in invoke("certify", "--help").stdout
    assert invoke(*words, "--give-up", 2, "--timeout", 5).exit_code == 0
    (folder,) = run.glob("certify-*")
    with Journal(folder / "journal.sqlite") as journal:
        assert journal.meta["cascade"]["branch"]["give_up"] == 2.0
    result = invoke(*words, "--timeout", 5)  # other settings
    assert result.exit_code == 2
    assert "cascade" in result.stderr
    assert invoke(*words, "--give-up", -1).exit_code == 2


def test_a_solver_that_is_not_there_is_told_before_anything_is_written(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyscipopt" else found(name)
    )
    words = ["certify", run, "--first", 2, "--eps", "0.01", "--stages", "lp"]
    result = invoke(*words, "--solver", "scip")
    assert result.exit_code == 2
    assert "pip install pyscipopt" in " ".join(result.stderr.split())
    assert not list(run.glob("certify-*"))


def test_weights_beside_which_the_results_lie(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model.safetensors", tmp_path / "net.safetensors")
    words = ["--first", "3", "--data", "mnist-5k", "--eps", "0.02", "--stages", "ibp"]
    result = invoke("certify", tmp_path / "net.safetensors", *words, "--json")
    assert result.exit_code == 0
    folder = tmp_path / "net-certify-mnist-5k-test-eps0.02"
    assert json.loads(result.stdout)["folder"] == str(folder)
    assert len(verdicts(folder)) == 3
    before = (run / "summary.json").read_bytes()
    assert invoke("certify", run, *words, "--out", tmp_path / "else").exit_code == 0
    assert len(verdicts(tmp_path / "else")) == 3
    assert (run / "summary.json").read_bytes() == before
    for missing, option in ((words[:2] + words[4:], "--data"), (words[:4] + words[6:], "--eps")):
        result = invoke("certify", tmp_path / "net.safetensors", *missing)
        assert result.exit_code == 2
        assert option in result.stderr


def test_an_attack_is_a_certification_that_proves_nothing(invoke: Invoke, run: Path) -> None:
    words = ["attack", run, "--first", 30, "--eps", "0.1", "--steps", 7]
    result = invoke(*words, "--loss", "margin", "--json")
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    folder = run / "attack-mnist-5k-test-eps0.1-pgd7x1-margin"
    assert figures["folder"] == str(folder)
    assert figures["certified_accuracy"] is None
    assert figures["attacked_accuracy"] < figures["natural_accuracy"]
    found = verdicts(folder)
    broken = [v for v in found if v.counterexample is not None]
    images = taut.load_data("mnist-5k", "test").first(30)
    model = taut.load_model(run)
    for verdict in broken:
        point, image = verdict.counterexample, images.pixels(verdict.index)
        assert point is not None
        assert (point - image).abs().max() <= 0.1 + 1e-7
        assert model(point[None]).argmax(1) != images.labels[verdict.index]
    wrong = round((1 - figures["natural_accuracy"]) * 30)
    assert figures["attacked_accuracy"] == 1 - (wrong + len(broken)) / 30
    assert "certification" not in json.loads((run / "summary.json").read_text())
    text = invoke("attack", run, "--first", 5, "--method", "fgsm").stdout
    assert "attacked accuracy" in text
    assert "certified" not in text
    assert (run / "attack-mnist-5k-test-eps0.06-fgsm1x1-ce").is_dir()
    options = ("--method", "flips", "--steps", 3, "--restarts", 2, "--loss", "margin")
    assert "attacked accuracy" in invoke("attack", run, "--first", 5, *options).stdout
    assert (run / "attack-mnist-5k-test-eps0.06-flips3x2-margin").is_dir()


def test_bounds_of_every_method(invoke: Invoke, run: Path) -> None:
    result = invoke("bounds", run, "--first", 10, "--json")
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    images = taut.load_data("mnist-5k", "test").first(10)
    model, box = taut.load_model(run), taut.Box.around(images.pixels(), 0.06)
    assert [row["name"] for row in figures["methods"]] == ["ibp", "crown-ibp", "crown"]
    with torch.no_grad():
        for row in figures["methods"]:
            smallest = taut.margins(model, box, images.labels, row["name"]).amin(1)
            assert row["mean_margin"] == pytest.approx(float(smallest.mean()), rel=1e-4)
            assert row["min_margin"] == pytest.approx(float(smallest.min()), rel=1e-4)
            assert row["proved"] == float((smallest > 0).double().mean())
    written = json.loads((run / "bounds-mnist-5k-test-eps0.06/summary.json").read_text())
    assert {**written, "folder": figures["folder"]} == figures
    # an earlier table is replaced
    result = invoke("bounds", run, "--first", 4, "--method", "crown", "--lines", "tight", "--json")
    (row,) = json.loads(result.stdout)["methods"]
    assert (row["name"], row["lines"]) == ("crown", "tight")
    assert "tight" in invoke("bounds", run, "--first", 4, "--lines", "tight").stdout
