"""Runs `taut` with the arguments given, and ends by SIGKILL at a chosen moment.

``python dying_worker.py verdict 7 certify ...`` dies when the 7th verdict is about to be
committed; ``python dying_worker.py step 2 5 train ...`` after step 5 of epoch 2.
"""

import os
import signal
import sys

from taut.cli import main
from taut.cli.train_display import TrainingDisplay
from taut.store import Journal


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_verdict(number):
    record, seen = Journal.record, []

    def counting(self, verdict):
        seen.append(verdict.index)
        if len(seen) == number:
            die()
        record(self, verdict)

    Journal.record = counting


def die_at_step(epoch, step):
    heard = TrainingDisplay.step_done

    def listening(self, info):
        heard(self, info)
        if (info.epoch, info.step) == (epoch, step):
            die()

    TrainingDisplay.step_done = listening


if __name__ == "__main__":
    if sys.argv[1] == "verdict":
        die_at_verdict(int(sys.argv[2]))
        del sys.argv[1:3]
    else:
        die_at_step(int(sys.argv[2]), int(sys.argv[3]))
        del sys.argv[1:4]
    main()
