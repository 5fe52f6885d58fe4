"""Byte budgets, measured from outside: the peak of a process of its own."""

from __future__ import annotations

import subprocess
import sys

MEGABYTE = 2**20
BUDGET = 256

WORK = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch, taut.models
from taut.bounds import METHODS
from taut.graph import trace
from taut.region import Box

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

torch.manual_seed(0)
torch.set_num_threads(1)
net = taut.models.build("dm-small-p1").eval()
x, y = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.long)
graph, box = trace(net, (1, 28, 28)).instance(), Box.around(x, 0.02)
for name in sys.argv[2:]:
    if os.fork() > 0:  # a child for each method, all after one import
        assert os.wait()[1] == 0, name
        continue
    method = replace(METHODS[name], budget=int(sys.argv[1]))
    with torch.no_grad():
        net(x)
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        method.margins(graph, box, y)
    print(kilobytes("VmHWM") - before, flush=True)
    os._exit(0)
"""


def test_the_peak_stays_within_a_fifth_of_the_budget() -> None:
    methods = ["crown", "lbp", "relaxed-crown-2", "deepz"]
    command = [sys.executable, "-c", WORK, str(BUDGET * MEGABYTE), *methods]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    peaks = dict(zip(methods, map(int, found.stdout.split()), strict=True))
    assert all(peak * 1024 <= 1.2 * BUDGET * MEGABYTE for peak in peaks.values()), peaks
