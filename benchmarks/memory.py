"""Byte budgets of the linear relaxations against the memory that they take.

    python benchmarks/memory.py [--json] [--net NAME] [--method NAME] [--budgets 256 512 1024 2048]

Every method with a budget runs in a process of its own, whose peak resident memory is read from
outside (child.py), less what it held after set-up and a plain pass. The limit is 1.2 times the
budget; the exit code is 1 where a method takes more. Refusing what does not fit is no failure, and
most chunks are smaller than a large budget allows, because larger ones are slower.

Random weights; alpha-CROWN takes a single gradient step, the other methods run as they are named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import child
import common
import torch

import taut.models
from taut.bounds import METHODS, BoundMethod
from taut.graph import trace
from taut.region import Box

LIMIT = 1.2
NETS = {
    # input shape, images, eps
    "dm-small-p1": ((1, 28, 28), 16, 0.02),
    "cnn7-narrow": ((3, 32, 32), 2, 0.5 / 255),
}


@dataclass(frozen=True)
class Row:
    """What is printed of one process."""

    net: str
    batch: int
    method: str
    budget_mb: int
    peak_mb: float
    ratio: float
    seconds: float
    failure: str


def budgeted(name: str, budget: int) -> BoundMethod | None:
    """Return a method with a budget, or None where it has none or needs none."""
    method: Any = METHODS[name]
    if not hasattr(method, "budget") or name == "crown-ibp":
        return None
    if hasattr(method, "ascent"):
        method = replace(method, ascent=replace(method.ascent, iterations=1))
    found: BoundMethod = replace(method, budget=budget)
    return found


def set_up(net_name: str, method_name: str, budget: int, batch: int, eps: float) -> child.Work:
    """Return the work: margins of random images within a budget."""
    shape = NETS[net_name][0]
    torch.manual_seed(0)
    net = taut.models.build(net_name, shape, 10).eval()
    x = torch.rand(batch, *shape)
    graph, box, method = trace(net, shape), Box.around(x, eps), budgeted(method_name, budget)
    assert method is not None
    with torch.no_grad():
        y = net(x).argmax(1)

    def work() -> Mapping[str, Any]:
        with torch.no_grad():
            margins = method.margins(graph.instance(), box, y)
        return {"bound": float(margins[margins.isfinite()].mean())}

    return work


def measure(
    net: str, method: str, megabytes: int, batch: int | None, eps: float | None, keep: bool
) -> Row:
    _, usual, radius = NETS[net]
    images, size = batch or usual, megabytes * child.MB
    found = child.measure(
        set_up, net, method, size, images, radius if eps is None else eps, keep=keep
    )
    return Row(
        net, images, method, megabytes, round(found.peak / child.MB, 1),
        round(found.peak / size, 3), round(found.seconds, 2), found.failure,
    )  # fmt: skip


def rows(options: Any) -> Iterator[Row]:
    for net in NETS:
        for method in METHODS:
            if options.net not in (None, net) or options.method not in (None, method):
                continue
            if budgeted(method, child.MB) is None:
                continue
            for megabytes in options.budgets:
                yield measure(
                    net, method, megabytes, options.batch, options.eps,
                    not options.default_allocator,
                )  # fmt: skip


def show(row: Row) -> None:
    text = f"{row.net:<12} {row.batch:>3} {row.method:<16} {row.budget_mb:>6} MB"
    if row.failure:
        print(f"{text}  {row.failure}", flush=True)
        return
    verdict = "" if row.ratio <= LIMIT else "  above the limit"
    print(
        f"{text} {row.peak_mb:>8.1f} MB {row.ratio:>6.2f} {row.seconds:>8.1f} s{verdict}",
        flush=True,
    )


def main() -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--method", help="this method only")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 512, 1024, 2048], help="MB")
    parser.add_argument("--batch", type=int, help="images of a call")
    parser.add_argument("--eps", type=float, help="radius in pixels of [0, 1]")
    options = common.started(parser)
    failed = 0
    if not options.json:
        print(f"{'net':<12} {'B':>3} {'method':<16} {'budget':>9} {'peak':>11} {'ratio':>6}")
    for row in rows(options):
        refused = row.failure.startswith("RunError")
        failed += row.ratio > LIMIT or (bool(row.failure) and not refused)
        print(json.dumps(asdict(row)), flush=True) if options.json else show(row)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
