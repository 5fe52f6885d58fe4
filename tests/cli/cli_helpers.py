"""What the tests of the command line share: a small recipe, and calling `taut`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

RECIPE = """\
title = "a tiny run for tests"

[data]
name = "mnist-5k"

[model]
name = "dm-small-crown8-16"

[method]
name = "ibp"
kappa_end = 0.8

[train]
epochs = 3
eps = 0.03
batch_size = 200
lr = 5e-3
threads = 1
device = "cpu"

[schedule]
start = 0
length = 3

[certify]
eps = 0.06
steps = 5
"""

Invoke = Callable[..., Any]


def environment() -> dict[str, str]:
    """The environment of a command in a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
