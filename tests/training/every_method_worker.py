"""Programs that train every named method.

``python every_method_worker.py kill FOLDER NAME ...`` trains each method three times: straight
through, in a child that ends by SIGKILL within its second epoch, and on from there; it writes which
resumed runs ended in the bits of the straight ones. ``... parallel FOLDER DEVICES NAME ...`` trains
each in so many processes and writes the rows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from training_helpers import blobs, same_bits, tiny_net, weights

from taut.models import Cells, ParamRamp
from taut.store import RunFolder
from taut.training import METHODS, EpsRamp, FitResult, Settings, StepInfo, fit

EPOCHS = 3


def settings(devices: int = 1) -> Settings:
    """One natural epoch, then eps grows: every phase but those of long schedules is met."""
    return Settings(
        epochs=EPOCHS, eps=0.1, batch_size=20, lr=1e-2, device="cpu", threads=1, devices=devices,
        schedule=EpsRamp("linear", 1, 3),
    )  # fmt: skip


def network(name: str) -> torch.nn.Module:
    net = tiny_net()
    if name.startswith("cells"):
        return torch.nn.Sequential(Cells(4), *net)
    if name.startswith("ramp"):
        net[1], net[4] = ParamRamp((3, 4, 4), eta=0.01), ParamRamp((8,), eta=0.01)
    return net


def train(name: str, folder: RunFolder, *, resume: bool, die: bool = False) -> FitResult:
    def on_step(info: StepInfo) -> None:
        if die and (info.epoch, info.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    sink: Any = folder
    return fit(
        network(name), blobs(60), None, METHODS[name].method, settings(), sink=sink,
        resume=resume, on_step=on_step,
    )  # fmt: skip


def killed_and_resumed(name: str, folder: Path) -> bool:
    """Tell whether a run killed in its second epoch ends in the weights of one that was not."""
    with RunFolder.create(folder / f"{name}-straight", "train", {}, 0) as run:
        straight = weights(train(name, run, resume=False).model)
    child = os.fork()
    if child == 0:
        with RunFolder.create(folder / name, "train", {}, 0) as run:
            train(name, run, resume=False, die=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"{name} was not killed: {status}"
    with RunFolder.open(folder / name, "train", write=True) as run:
        assert [row["epoch"] for row in run.read_metrics()] == [1]
        return same_bits(straight, weights(train(name, run, resume=True).model))


def main() -> None:
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if task == "kill":
        found = {name: killed_and_resumed(name, folder) for name in sys.argv[3:]}
        (folder / "resumed.json").write_text(json.dumps(found))
        return
    rows = {
        name: fit(
            network(name), blobs(60), None, METHODS[name].method, settings(int(sys.argv[3]))
        ).rows
        for name in sys.argv[4:]
    }
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    (folder / f"rows-{rank}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
