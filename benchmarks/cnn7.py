"""Full CROWN margins of CNN7 on images of CIFAR's size: time, memory, share of neurons skipped.

    python benchmarks/cnn7.py [--json] [--batch 1 4] [--weights FILE] [--no-peer] [--net NAME]

Each row is a process of its own, whose peak memory is read from outside (child.py), less what it
held after set-up and a plain pass. CNN7 is 64-64-128-128-128, FC512, with batch normalisation, at
eps 2/255; weights are random, or those of the state_dict in FILE besides, on random images or on
the first CIFAR-10 test images where they are found. A neuron is skipped where a cheaper bound
settled it and no row was substituted back for it. auto_LiRPA, which has no budget, runs on random
weights within --most bytes of address space; it takes about 11 GB for one image.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import child
import common
import peers
import torch
from torch import Tensor, nn

import taut
import taut.models
from taut.bounds import Backward, Bounds
from taut.bounds.budget import free_bytes
from taut.errors import TautError
from taut.graph import trace
from taut.region import Box

SHAPE, CLASSES, EPS = (3, 32, 32), 10, 2 / 255
GB = 2**30
PEER_NEEDS = 12 * GB


@dataclass(frozen=True)
class Row:
    """What is printed of one process."""

    net: str
    weights: str
    batch: int
    by: str
    seconds: float
    ratio: float
    peak_mb: float
    budget_mb: float | None
    skipped: float | None
    bound: float | None
    failure: str


@dataclass
class Count:
    """The neurons that rows were substituted back for, by node."""

    pairs: dict[int, int] = field(default_factory=dict)


@contextmanager
def counted() -> Iterator[Count]:
    """Count the neurons that the layers before are bounded for by substitution."""
    module = importlib.import_module("taut.bounds.refine")
    count, bound = Count(), module.bound_pairs

    def noted(inter: Any, source: int, pairs: Tensor, *rest: Any) -> Bounds:
        count.pairs[source] = max(count.pairs.get(source, 0), len(pairs))
        found: Bounds = bound(inter, source, pairs, *rest)
        return found

    with mock.patch.object(module, "bound_pairs", noted):
        yield count


def set_up(name: str, batch: int, budget: int | None, weights: str | None) -> child.Work:
    """Return the work of one row, of taut with a budget, else of auto_LiRPA."""
    torch.manual_seed(0)
    net = taut.models.build(name, SHAPE, CLASSES).eval()
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    x = images(batch, trained=weights is not None)
    graph, box = trace(net, SHAPE), Box.around(x, EPS)
    with torch.no_grad():
        y = net(x).argmax(1)
    answers: dict[str, Any] = {"plain": plain_seconds(net, x)}

    if budget is None:
        call = peers.Peer(net, SHAPE, batch).timed(box, y, CLASSES, "crown")
        neurons = 0
    else:
        method = Backward("crown", lines="adaptive", budget=budget)
        network = graph.instance()
        neurons = batch * sum(torch.Size(network.nodes[i].shape).numel() for i in network.bent())

        def call() -> Tensor:
            return method.margins(graph.instance(), box, y)

    def work() -> Mapping[str, Any]:
        with torch.no_grad(), counted() as count:
            margins = call()
        answers["bound"] = float(margins[margins.isfinite()].double().mean())
        if neurons:
            answers["skipped"] = 1 - sum(count.pairs.values()) / neurons
        return answers

    return work


def plain_seconds(net: nn.Module, x: Tensor) -> float:
    """Return the median CPU time of a plain pass, after two to warm up."""
    times = []
    for _ in range(7):
        start = time.process_time()
        net(x)
        times.append(time.process_time() - start)
    return statistics.median(times[2:])


def images(count: int, *, trained: bool) -> Tensor:
    """Return CIFAR-10 test images for a trained network where they are found, else random ones."""
    if trained:
        try:
            test = taut.load_data("cifar10", "test")
        except TautError as error:
            print(f"random images instead of CIFAR-10's: {error}", file=sys.stderr)
        else:
            return test.images[:count].float().div(255)
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def measure(
    name: str, batch: int, budget: int | None, weights: Path | None, most: int | None
) -> Row:
    path = None if weights is None else str(weights)
    found = child.measure(set_up, name, batch, budget, path, most=most)
    answers = found.answers
    return Row(
        name, "random" if weights is None else weights.name, batch,
        "taut" if budget is not None else peers.NAME, round(found.seconds, 2),
        round(found.seconds / answers["plain"], 1) if answers else 0.0,
        round(found.peak / child.MB, 1), None if budget is None else budget / child.MB,
        answers.get("skipped"), answers.get("bound"), found.failure,
    )  # fmt: skip


def show(row: Row) -> None:
    if row.failure:
        outcome = row.failure
    else:
        budget = "" if row.budget_mb is None else f"of {row.budget_mb:.0f}"
        skipped = "" if row.skipped is None else f"{row.skipped:.1%} skipped"
        outcome = (
            f"{row.seconds:8.1f} s {row.ratio:9.0f} x plain {row.peak_mb:8.0f} MB {budget:<8} "
            f"{skipped:<14} mean bound {row.bound:.5g}"
        )
    print(
        f"{row.net:<12} {row.weights:<12} batch {row.batch:<3} {row.by:<11} {outcome}", flush=True
    )


def main() -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.set_defaults(net="cnn7")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images of a call")
    parser.add_argument("--budget", type=float, default=2.0, help="GB (default %(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="state_dict of a trained net")
    parser.add_argument("--no-peer", action="store_true", help="leave auto_LiRPA out")
    parser.add_argument(
        "--most", type=float, default=14.0,
        help="GB of address space that auto_LiRPA may take (default %(default)s)",
    )  # fmt: skip
    options = common.started(parser)
    budget = int(options.budget * GB)
    plan: list[tuple[int, int | None, Path | None, int | None]] = []
    for batch in options.batch:
        plan.append((batch, budget, None, None))
        if options.weights is not None:
            plan.append((batch, budget, options.weights, None))
        if peers.installed() and not options.no_peer:
            plan.append((batch, None, None, int(options.most * GB)))
    failed = False
    for batch, size, weights, most in plan:
        if size is None and options.net == "cnn7" and free_bytes(torch.device("cpu")) < PEER_NEEDS:
            print(f"{peers.NAME} left out: it needs about 12 GB of free memory", file=sys.stderr)
            continue
        row = measure(options.net, batch, size, weights, most)
        over = size is not None and row.peak_mb * child.MB > 1.2 * size
        failed |= size is not None and (bool(row.failure) or over)
        print(json.dumps(asdict(row)), flush=True) if options.json else show(row)
    sys.exit(failed)


if __name__ == "__main__":
    main()
