"""Every named method: killed and resumed to the bit, and the same in two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from every_method_worker import EPOCHS, network, settings
from training_helpers import blobs, start

from taut.training import METHODS, fit

WORKER = Path(__file__).with_name("every_method_worker.py")
NAMES = sorted(METHODS)
GROUPS = [NAMES[start::2] for start in range(2)]


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_killed_runs_end_in_the_weights_of_those_that_were_not(group: int, tmp_path: Path) -> None:
    assert start(WORKER, "kill", str(tmp_path), *GROUPS[group]) == 0
    resumed = json.loads((tmp_path / "resumed.json").read_text())
    assert resumed == dict.fromkeys(GROUPS[group], True)


def test_two_processes_give_the_loss_curves_of_one(tmp_path: Path) -> None:
    assert start(WORKER, "parallel", str(tmp_path), "2", *NAMES) == 0
    found = json.loads((tmp_path / "rows-0.json").read_text())
    assert found.keys() == METHODS.keys()
    for name in NAMES:
        alone = fit(network(name), blobs(60), None, METHODS[name].method, settings()).rows
        assert len(alone) == EPOCHS
        for one, other in zip(alone, found[name], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-4), name
