"""Writes a run folder as fast as it can, to be killed at any moment (see test_store_kill.py).

Reads lines from standard input: ``start`` forks a writer that goes on with the run in
``argv[1]``, ``kill`` kills it with SIGKILL and prints its exit code. What a writer was
told is on the disk it appends to ``argv[2]``. At the end of the input nothing is left
running.
"""

import os
import signal
import sys

import tensorboardX  # noqa: F401 - once here, not once in every child
import torch

from taut.store import RunFolder
from taut.verify.verdict import Status, Verdict

ARCHITECTURE = {"name": "tiny", "input_shape": [1, 8, 8], "classes": 2}
CONFIG = {"train": {"epochs": 1000}}
META = {"weights": "0", "data": "d", "split": "test", "eps": 0.1, "cascade": {}, "seed": 0}
SIZE = 100_000


def weights(epoch):
    return {"w": torch.full((SIZE,), float(epoch)), "n": torch.tensor(epoch)}


def verdict(index):
    return Verdict(
        index=index,
        label=1,
        predicted=1,
        status=Status.FALSIFIED,
        stage="attack",
        reason="counterexample",
        margin=-float(index) - 1.0,
        seconds=0.1,
        counterexample=torch.full((1, 8, 8), index / 7),
    )


def write_forever(path, note):
    with RunFolder.create(path, "train", CONFIG, 0, exist_ok_same=True) as run:
        state = run.resume()
        epoch = 0 if state is None else state["epoch"]
        with run.journal(META) as journal:
            index, passed = len(journal.done()), journal.progress()
            while True:
                epoch += 1
                run.append_metrics({"epoch": epoch, "loss": {"total": float(epoch)}})
                run.save_weights(weights(epoch), ARCHITECTURE)
                run.save_checkpoint({"epoch": epoch, "weights": weights(epoch)})
                note("epoch", epoch)
                for _ in range(5):
                    if index not in passed:  # a resumed run repeats no stage
                        journal.record_progress(index, "ibp", -float(index))
                        note("progress", index)
                    journal.record(verdict(index))
                    note("verdict", index)
                    index += 1


def fork_writer(path, notes):
    child = os.fork()
    if child == 0:
        with open(notes, "ab", buffering=0) as file:
            write_forever(path, lambda *words: file.write(f"{words[0]} {words[1]}\n".encode()))
    return child


def kill(child):
    """Kill a writer; nobody else has its id, for it is not waited for before."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(path, notes):
    child = None
    for line in sys.stdin:
        if line == "start\n":
            child = fork_writer(path, notes)
            print("started", flush=True)
        else:
            print(kill(child), flush=True)
            child = None
    if child is not None:
        kill(child)


if __name__ == "__main__":
    main(*sys.argv[1:])
