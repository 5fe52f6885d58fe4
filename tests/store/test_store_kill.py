"""SIGKILL at random moments: what was reported as written is there, and a run can always go on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kill_worker import CONFIG, META, SIZE, verdict, weights
from store_helpers import shown

from taut.errors import RunError
from taut.store import RunFolder, read_weights
from taut.store.atomic import is_leftover

ROUNDS = 20
FILES = {".lock", "config.json", "metrics.jsonl", "model.safetensors", "checkpoint.pt"}
FILES |= {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"}


class Worker:
    """The process that forks and kills writers, one at a time."""

    def __init__(self, folder):
        command = [sys.executable, Path(__file__).with_name("kill_worker.py"), "run", "notes"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdin=-1, stdout=-1
        )

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self):
        """Fork a writer."""
        assert self.ask("start") == "started"

    def kill(self):
        """Kill the writer; return how it died."""
        return int(self.ask("kill"))

    def close(self):
        """End the process, and with it a writer that a failed test has left."""
        with self.process:
            self.process.stdin.close()
        return self.process.returncode


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    assert worker.close() == 0


def wait_for_epoch(notes, epoch):
    """Wait until a child has noted a later epoch than ``epoch``."""
    limit = time.monotonic() + 20
    while noted(notes)["epoch"] <= epoch:
        assert time.monotonic() < limit, "the writer does not come forward"
        time.sleep(0.002)


def noted(path):
    """Return the last epoch and indices the killed writers were told are on the disk."""
    last = {"epoch": 0, "progress": -1, "verdict": -1}
    if path.exists():
        for line in path.read_text().rpartition("\n")[0].splitlines():
            word, number = line.split()
            assert int(number) > last[word], "a finished piece of work was done again"
            last[word] = int(number)
    return last


def check_reading(folder, last):
    """Check all that a reader finds after a kill, before anybody mends anything."""
    run = RunFolder.open(folder, "train")
    state = run.load_checkpoint()
    epoch = 0 if state is None else state["epoch"]
    assert epoch in (last["epoch"], last["epoch"] + 1)
    if state is not None:
        assert all(torch.equal(state["weights"][k], v) for k, v in weights(epoch).items())
    rows = run.read_metrics()
    assert rows == [{"epoch": i, "loss": {"total": float(i)}} for i in range(1, len(rows) + 1)]
    assert len(rows) in (epoch, epoch + 1)
    model = folder / "model.safetensors"
    if model.exists():
        found = read_weights(model)
        assert found["w"].shape == (SIZE,)
        assert all(torch.equal(found[k], v) for k, v in weights(int(found["n"])).items())
        assert int(found["n"]) in (epoch, epoch + 1)
    names = {entry.name for entry in folder.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    leftovers = {name for name in names if is_leftover(name)}
    assert names <= FILES | events | leftovers
    assert len(leftovers) <= 1


def check_resuming(folder, last):
    """Check that the run can be taken over, exactly where its checkpoint is."""
    with RunFolder.create(folder, "train", CONFIG, 0, exist_ok_same=True) as run:
        state = run.resume()
        epoch = 0 if state is None else state["epoch"]
        assert [row["epoch"] for row in run.read_metrics()] == list(range(1, epoch + 1))
        assert not any(is_leftover(entry.name) for entry in folder.iterdir())
        with run.journal(META) as journal:
            found, progress = journal.verdicts(), journal.progress()
    assert [entry.index for entry in found] == list(range(len(found)))
    assert len(found) in (last["verdict"] + 1, last["verdict"] + 2)
    for entry in found:
        expected = verdict(entry.index)
        assert entry.margin == expected.margin
        assert torch.equal(entry.counterexample, expected.counterexample)
    assert set(progress) <= {len(found)}
    if last["progress"] == len(found):
        assert progress == {len(found): ("ibp", -float(len(found)))}
    return epoch


def test_a_killed_run_can_always_be_read_and_resumed(tmp_path, worker):
    generator = random.Random(7)
    folder, notes, epochs = tmp_path / "run", tmp_path / "notes", [0]
    for number in range(ROUNDS):
        worker.start()
        if number % 3:  # two kills of three fall into the work, one into the start
            wait_for_epoch(notes, noted(notes)["epoch"])
        time.sleep(generator.uniform(0.0, 0.03))
        assert worker.kill() == -signal.SIGKILL
        last = noted(notes)
        if (folder / "config.json").exists():
            check_reading(folder, last)
        else:
            assert last["epoch"] == 0
        epochs.append(check_resuming(folder, last))
        assert epochs[-1] >= epochs[-2] + (1 if number % 3 else 0)

    with RunFolder.open(folder, write=True) as run:
        run.append_metrics({"epoch": epochs[-1] + 1, "loss": {"total": float(epochs[-1] + 1)}})
    steps = shown(folder)["loss/total"]
    assert steps == {i: float(i) for i in range(1, epochs[-1] + 2)}


def test_the_lock_keeps_a_second_process_out_and_dies_with_the_first(tmp_path, worker):
    folder = tmp_path / "run"
    worker.start()
    try:
        wait_for_epoch(tmp_path / "notes", 0)
        with pytest.raises(RunError, match="another process"):
            RunFolder.open(folder, write=True)
        with pytest.raises(RunError, match="another process"):
            RunFolder.create(folder, "train", CONFIG, 0, exist_ok_same=True)
        assert RunFolder.open(folder).load_checkpoint()["epoch"] >= 1
    finally:
        assert worker.kill() == -signal.SIGKILL
    with RunFolder.open(folder, write=True) as run:
        assert run.writable
