"""Programs the tests start: a run that kills itself, and a run in two processes.

``python training_worker.py kill FOLDER MOMENT EPOCH`` trains into a run folder and ends by
SIGKILL in that epoch: in its middle (``step``), or between metrics and checkpoint (``row``).
``python training_worker.py parallel FOLDER DEVICES`` trains every method of PARALLEL in so many
processes and writes their rows.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from training_helpers import blobs, tiny_net

from taut.models import ParamRamp
from taut.store import RunFolder
from taut.training import (
    METHODS,
    ActivationSchedule,
    EpsRamp,
    FitResult,
    Regularisers,
    Settings,
    StepInfo,
    fit,
)

EPOCHS = 5
PARALLEL = ("natural", "pgd", "ibp", "crown-ibp", "around")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingFolder:
    """A run folder that kills the process between an epoch's metrics and its checkpoint."""

    def __init__(self, folder: RunFolder, epoch: int) -> None:
        self.folder = folder
        self.epoch = epoch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.folder, name)

    def append_metrics(self, row: Any) -> None:
        self.folder.append_metrics(row)
        if row["epoch"] == self.epoch:
            die()


def killed_run(folder: RunFolder, resume: bool, moment: str = "", epoch: int = 0) -> FitResult:
    """Train; at ``moment`` of ``epoch`` the process ends."""

    def on_step(info: StepInfo) -> None:
        if moment == "step" and (info.epoch, info.step) == (epoch, 3):
            die()

    chosen = Settings(
        epochs=EPOCHS, eps=0.1, batch_size=20, lr=1e-2, device="cpu", threads=1,
        schedule=EpsRamp("linear", 1, 3),
    )  # fmt: skip
    sink: Any = DyingFolder(folder, epoch) if moment == "row" else folder
    method = METHODS["crown-ibp"].method
    return fit(
        tiny_net(), blobs(), blobs(30), method, chosen, sink=sink, resume=resume, on_step=on_step
    )


def parallel_rows(name: str, devices: int) -> list[dict[str, Any]]:
    """Train a method in so many processes; batches of 20 and a last one of 17 do not divide."""
    chosen = Settings(
        epochs=3, eps=0.1, batch_size=20, lr=1e-2, device="cpu", threads=1, devices=devices,
        schedule=EpsRamp("linear", 1, 2),
    )  # fmt: skip
    if name != "around":
        return fit(tiny_net(), blobs(97), blobs(31), METHODS[name].method, chosen).rows
    around = dataclasses.replace(
        chosen,
        init="shi",
        average_from=1,
        regularise=Regularisers(l1=1e-3, shi=0.5),
        activation=ActivationSchedule("linear", eta=0.1, r_init="mean", noise=0.01),
    )
    net = tiny_net()
    net[1], net[4] = ParamRamp((3, 4, 4)), ParamRamp((8,))
    return fit(net, blobs(97), blobs(31), METHODS["ibp"].method, around).rows


def main() -> None:
    task, folder = sys.argv[1], Path(sys.argv[2])
    if task == "kill":
        fresh = not (folder / "config.json").exists()
        run = (
            RunFolder.create(folder, "train", {}, 0)
            if fresh
            else RunFolder.open(folder, "train", write=True)
        )
        killed_run(run, not fresh, sys.argv[3], int(sys.argv[4]))
    else:
        rows = {name: parallel_rows(name, int(sys.argv[3])) for name in PARALLEL}
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        (folder / f"rows-{rank}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
