"""The run folder: what it refuses, what it keeps, who may write."""

import json
import os
import subprocess
import sys
from datetime import datetime

import pytest
import torch
from store_helpers import shown
from torch import nn

import taut
from taut.errors import RunError
from taut.store import RunFolder, versions
from taut.store.config import RUN_FORMAT

CONFIG = {"model": "dm-small", "train": {"epochs": 5, "eps": (0.1, 0.3)}, "norm": float("inf")}
ARCHITECTURE = {"name": "tiny", "input_shape": [2], "classes": 2}


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "a", "train", CONFIG, 3) as run:
        yield run


def test_the_configuration_comes_back_frozen(run):
    for found in (run, RunFolder.open(run.path)):
        assert (found.kind, found.seed) == ("train", 3)
        assert found.recipe == found.config["recipe"]
        assert found.recipe["train"]["eps"] == (0.1, 0.3)
        assert found.recipe["norm"] == float("inf")
        assert found.config == run.config
        with pytest.raises(TypeError):
            found.config["seed"] = 4
        with pytest.raises(TypeError):
            found.recipe["train"]["epochs"] = 4


def test_the_file_says_who_wrote_it_and_when(run):
    content = json.loads((run.path / "config.json").read_text())
    assert set(content) == {"format", "kind", "recipe", "seed", "versions", "created"}
    assert content["format"] == RUN_FORMAT
    assert content["versions"] == versions()
    found = content["versions"]
    assert found["taut"] == taut.__version__
    assert found["torch"] == torch.__version__
    assert found["python"] == "{}.{}.{}".format(*sys.version_info)
    assert {"numpy", "platform", "safetensors"} <= set(found)
    created = datetime.fromisoformat(content["created"])
    assert created.utcoffset().total_seconds() == 0
    assert abs(created.timestamp() - (run.path / "config.json").stat().st_mtime) < 60


def test_an_empty_folder_or_leftovers_of_a_killed_start_are_taken(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.0123abcd.tmp").touch()
    with RunFolder.create(tmp_path, "train", CONFIG, 0):
        assert sorted(os.listdir(tmp_path)) == [".lock", "config.json"]


def test_another_run_is_refused_and_left_alone(run):
    run.close()
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"another --out, or resume it with `taut train --resume "):
        RunFolder.create(run.path, "train", CONFIG, 3)
    assert (run.path / "config.json").read_bytes() == before
    RunFolder.open(run.path, write=True).close()  # and the lock is free again


def test_only_a_training_run_is_said_to_be_resumable_by_train(tmp_path):
    RunFolder.create(tmp_path, "certify", CONFIG, 3).close()
    with pytest.raises(RunError, match="certify run") as caught:
        RunFolder.create(tmp_path, "certify", CONFIG, 3)
    assert "taut train" not in str(caught.value)


def test_files_of_something_else_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunError, match=r"other files \(thesis.txt\).*another --out"):
        RunFolder.create(tmp_path, "train", CONFIG, 3)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(RunError, match="another --out"):
            RunFolder.create(path, "train", CONFIG, 3)


def test_the_same_run_may_be_continued(run):
    run.append_metrics({"epoch": 1})
    run.close()
    same = dict(reversed(CONFIG.items()))
    with RunFolder.create(run.path, "train", same, 3, exist_ok_same=True) as again:
        assert again.config == run.config
        assert again.read_metrics() == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("kind", "config", "seed", "words"),
    [
        ("certify", CONFIG, 3, r"kind is 'train' there and 'certify' here"),
        ("train", CONFIG, 4, r"seed is 3 there and 4 here"),
        ("train", {**CONFIG, "model": "cnn7"}, 3, r"recipe\.model"),
        (
            "train",
            {**CONFIG, "train": {"epochs": 6, "eps": [0.1, 0.3]}},
            3,
            r"train\.epochs is 5 .* 6",
        ),
        ("train", {**CONFIG, "train": {"epochs": 5.0, "eps": [0.1, 0.3]}}, 3, r"5 there and 5\.0"),
        ("train", {**CONFIG, "train": {"epochs": 5, "eps": [0.1]}}, 3, r"recipe\.train\.eps"),
        ("train", {**CONFIG, "new": 1}, 3, r"recipe\.new"),
        ("train", {"model": "dm-small", "norm": float("inf")}, 3, r"recipe\.train"),
    ],
)
def test_a_changed_run_is_refused_by_field(run, kind, config, seed, words):
    run.close()
    with pytest.raises(RunError, match=words):
        RunFolder.create(run.path, kind, config, seed, exist_ok_same=True)
    RunFolder.open(run.path, write=True).close()


@pytest.mark.parametrize("config", [{"a": torch.zeros(1)}, {"a": object()}, {1: 2}])
def test_a_configuration_must_be_plain(tmp_path, config):
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "a", "train", config, 0)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("kind", "seed"), [("", 0), ("train", 1.0), ("train", True), ("train", None)]
)
def test_kind_and_seed_are_checked(tmp_path, kind, seed):
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "a", kind, {}, seed)


def test_a_folder_without_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="no run folder"):
            RunFolder.open(path)


def test_a_run_of_another_kind_is_refused(run):
    assert RunFolder.open(run.path, "train").kind == "train"
    with pytest.raises(RunError, match="train run, not a certify run"):
        RunFolder.open(run.path, "certify")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"seed": 3', '"seed": "3"'),
        lambda text: text.replace('"seed": 3', '"seed": true'),
        lambda text: text.replace('"kind": "train"', '"kind": null'),
        lambda text: text.replace('"recipe"', '"recipes"'),
        lambda text: text.replace('"format": 1', '"format": "1"'),
    ],
)
def test_a_damaged_configuration_is_refused(run, damage):
    target = run.path / "config.json"
    changed = damage(target.read_text())
    assert changed != target.read_text()
    target.write_text(changed)
    with pytest.raises(RunError, match=r"config\.json is damaged.*another --out"):
        RunFolder.open(run.path)


def test_a_newer_layout_asks_for_an_upgrade(run):
    target = run.path / "config.json"
    target.write_text(target.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RunError, match="upgrade taut"):
        RunFolder.open(run.path)


def test_one_writer_at_a_time_and_readers_always(run):
    with pytest.raises(RunError, match="another process is writing"):
        RunFolder.open(run.path, write=True)
    reader = RunFolder.open(run.path)
    assert (run.writable, reader.writable) == (True, False)
    run.close()
    run.close()
    assert not run.writable
    with RunFolder.open(run.path, write=True) as writer:
        assert writer.writable
    assert not writer.writable


def test_nothing_is_written_without_the_lock(run):
    reader = RunFolder.open(run.path)
    before = sorted(os.listdir(run.path))
    for write in (
        lambda: reader.append_metrics({"epoch": 1}),
        lambda: reader.rewind_metrics(0),
        lambda: reader.save_weights({}, ARCHITECTURE),
        lambda: reader.save_checkpoint({"epoch": 1}),
        lambda: reader.resume(),
        lambda: reader.journal({}),
        lambda: reader.write_summary({}),
    ):
        with pytest.raises(RunError, match="write=True"):
            write()
    assert sorted(os.listdir(run.path)) == before


def test_metrics_go_to_both_records(run):
    run.append_metrics({"epoch": 1, "loss": {"total": 0.5, "robust": 2}, "name": "x"})
    run.append_metrics({"epoch": 2, "loss": {"total": 0.25}})
    assert run.read_metrics()[1] == {"epoch": 2, "loss": {"total": 0.25}}
    assert shown(run.path) == {"loss/total": {1: 0.5, 2: 0.25}, "loss/robust": {1: 2.0}}


def test_resuming_rewinds_to_the_checkpoint(run):
    assert run.resume() is None
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "loss": float(epoch)})
        if epoch < 3:
            run.save_checkpoint({"epoch": epoch, "weights": {"w": torch.tensor(epoch)}})
    run.close()
    with RunFolder.open(run.path, write=True) as again:
        state = again.resume()
        assert state["epoch"] == 2
        assert torch.equal(state["weights"]["w"], torch.tensor(2))
        assert [row["epoch"] for row in again.read_metrics()] == [1, 2]
        again.append_metrics({"epoch": 3, "loss": 30.0})
    assert shown(run.path) == {"loss": {1: 1.0, 2: 2.0, 3: 30.0}}
    assert again.load_checkpoint()["epoch"] == 2


def test_rewinding_within_a_session_leaves_no_point_twice(run):
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "loss": float(epoch)})
    assert run.rewind_metrics(1) == 2
    run.append_metrics({"epoch": 2, "loss": 20.0})
    assert shown(run.path) == {"loss": {1: 1.0, 2: 20.0}}


def test_before_the_first_checkpoint_everything_starts_over(run):
    run.append_metrics({"epoch": 1})
    assert run.load_checkpoint() is None
    assert run.resume() is None
    assert run.read_metrics() == []


def test_lost_metrics_are_not_passed_over(run):
    run.append_metrics({"epoch": 1})
    run.save_checkpoint({"epoch": 1})
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="0 rows and the checkpoint was written after 1"):
        run.resume()


def test_weights_and_architecture_round_trip(run):
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    run.save_weights(model.state_dict(), ARCHITECTURE)
    RunFolder.open(run.path).load_weights(other)
    assert torch.equal(model.weight, other.weight)
    assert run.read_architecture()["name"] == "tiny"


def test_journal_and_summary_are_reached_through_the_folder(run):
    meta = {"weights": "0", "data": "d", "split": "test", "eps": 0.1, "cascade": {}, "seed": 0}
    with run.journal(meta) as journal:
        journal.record_progress(3, "ibp", -1.0)
    with RunFolder.open(run.path).journal() as journal:
        assert journal.progress() == {3: ("ibp", -1.0)}
    figures = dict.fromkeys(("natural_accuracy", "attacked_accuracy", "certified_accuracy"))
    figures |= {"images": 0, "eps": 0, "seconds": 1.5, "verdicts": {}}
    run.write_summary(figures)
    assert RunFolder.open(run.path).read_summary() == figures


@pytest.mark.parametrize(
    "reopen",
    [
        lambda path: RunFolder.open(path, write=True),
        lambda path: RunFolder.create(path, "train", CONFIG, 3, exist_ok_same=True),
    ],
)
def test_opening_for_writing_clears_what_a_killed_writer_left(run, reopen):
    run.close()
    leftover = run.path / ".checkpoint.pt.0123abcd.tmp"
    leftover.touch()
    RunFolder.open(run.path)
    assert leftover.exists()
    reopen(run.path).close()
    assert not leftover.exists()


def test_importing_the_room_does_not_import_tensorboard():
    script = "import sys, taut.store; print('tensorboardX' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert out.stdout == "False\n"
