"""Killed and resumed, and spread over two processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from training_helpers import same_bits, start, weights
from training_worker import EPOCHS, PARALLEL, killed_run, parallel_rows

from taut.store import RunFolder

WORKER = Path(__file__).with_name("training_worker.py")


def test_a_run_killed_at_any_moment_ends_in_the_weights_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    with RunFolder.create(tmp_path / "straight", "train", {}, 0) as folder:
        straight = killed_run(folder, resume=False)
    target = str(tmp_path / "killed")
    assert start(WORKER, "kill", target, "step", "3") == -signal.SIGKILL
    with RunFolder.open(target) as folder:
        assert [row["epoch"] for row in folder.read_metrics()] == [1, 2]
    assert start(WORKER, "kill", target, "row", "4") == -signal.SIGKILL
    with RunFolder.open(target, write=True) as folder:
        assert [row["epoch"] for row in folder.read_metrics()] == [1, 2, 3, 4]
        state = folder.load_checkpoint()
        assert state is not None
        assert state["epoch"] == 3
        resumed = killed_run(folder, resume=True)
        rows = folder.read_metrics()
    assert same_bits(weights(straight.model), weights(resumed.model))
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in straight.rows]


def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    assert start(WORKER, "parallel", str(tmp_path), "2") == 0
    found = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    for name in PARALLEL:
        alone = parallel_rows(name, 1)
        for rows in (found[0][name], found[1][name]):
            assert len(rows) == len(alone)
            for one, other in zip(alone, rows, strict=True):
                assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-4)
                assert other["validation"] == pytest.approx(one["validation"], abs=1e-9)
