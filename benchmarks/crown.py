"""Cost of the dear margin bounds, over a plain pass of the same network and beside auto_LiRPA.

    python benchmarks/crown.py [--json] [--repeats 3] [--pgd-weights FILE] [--ibp-weights FILE]

Full CROWN and alpha-CROWN (20 iterations, all layers) for the nine margins of 16 digits on trained
networks. The limits are shares of what auto_LiRPA takes in the same rounds; where it is not
installed, of what it took elsewhere by the same protocol. Weights come from the files named, from
pretrained/dm-small-5k below the folder TAUT_DATA names, or from a short training run here.

The table also has the means of the margins' lower bounds; taut's has to be as good as
auto_LiRPA's, for alpha-CROWN within 2 %. The exit code is 1 where it is not.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import peers
import torch
import trained
from torch import Tensor

from taut.bounds import METHODS, Backward, BoundMethod
from taut.graph import trace
from taut.region import Box

_PLAIN = 15  # plain passes a round; one takes about a millisecond


@dataclass(frozen=True)
class Case:
    """A bound on a trained network.

    ``share`` of the peer's time is the limit, and ``elsewhere`` the peer's ratio where it cannot
    be measured here; the bound may be worse by ``slack``, relatively.
    """

    kind: str
    method: str
    eps: float
    share: float
    elsewhere: float
    slack: float


CASES = (
    Case("pgd", "crown", 0.05, 1 / 2, 1300, 1e-5),
    Case("ibp", "crown", 0.1, 1 / 4, 580, 1e-5),
    Case("pgd", "alpha-crown", 0.05, 1 / 3, 56_000, 0.02),
)


def method_of(name: str) -> BoundMethod | None:
    """Return the method with auto_LiRPA's lines, or None where taut does not have it."""
    return Backward("crown", lines="adaptive") if name == "crown" else METHODS.get(name)


@dataclass(frozen=True)
class Found:
    """The median of the ratios to a plain pass, and the mean lower bound."""

    ratio: float
    bound: float


def interleaved(
    plain: Callable[[], Tensor], functions: dict[str, Callable[[], Tensor]], repeats: int
) -> dict[str, Found]:
    """Time functions in turn; those that take long are not worth a round to warm up."""
    plain()
    ratios: dict[str, list[float]] = {name: [] for name in functions}
    means: dict[str, float] = {}
    for _ in range(repeats):
        unit = statistics.median(_timed(plain)[0] for _ in range(_PLAIN))
        for name, function in functions.items():
            seconds, margins = _timed(function)
            ratios[name].append(seconds / unit)
            means[name] = float(margins[margins.isfinite()].double().mean())
    return {name: Found(statistics.median(each), means[name]) for name, each in ratios.items()}


def _timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def measure(
    case: Case, method: BoundMethod, weights: Path | None, batch: int, repeats: int
) -> common.Row:
    source = trained.network(case.kind, weights)
    x, y = trained.digits(batch)
    graph, box = trace(source.net, trained.SHAPE), Box.around(x, case.eps)
    functions = {"taut": lambda: method.margins(graph.instance(), box, y)}
    if peers.installed():
        peer = peers.Peer(source.net, trained.SHAPE, batch)
        functions[peers.NAME] = peer.timed(box, y, trained.CLASSES, case.method)
    with torch.no_grad():
        found = interleaved(lambda: source.net(x), functions, repeats)
    ours, other = found["taut"], found.get(peers.NAME)
    ratio = case.elsewhere if other is None else other.ratio
    return common.Row(
        f"margins, eps {case.eps:g}", source.name, case.method, batch,
        round(ours.ratio, 1), round(case.share * ratio, 1),
        peers.NAME if other is not None else f"{peers.NAME}, elsewhere", round(ratio, 1),
        ours.bound, None if other is None else other.bound,
    )  # fmt: skip


def loose(case: Case, row: common.Row) -> bool:
    """Whether taut's bound is worse than the peer's by more than it may be."""
    if row.bound is None or row.peer_bound is None:
        return False
    return row.bound < row.peer_bound - case.slack * abs(row.peer_bound)


def main() -> None:
    parser = common.parser(__doc__, repeats=3)
    for kind in ("pgd", "ibp"):
        parser.add_argument(
            f"--{kind}-weights", type=Path, metavar="FILE",
            help=f"state_dict of a {trained.NET} trained by {kind}",
        )  # fmt: skip
    parser.add_argument("--batch", type=int, default=16, help="digits (default %(default)s)")
    parser.add_argument("--method", help="this method only")
    options = common.started(parser)
    rows, worse = [], 0
    for case in CASES:
        method = method_of(case.method)
        if method is None or options.method not in (None, case.method):
            continue
        if options.net not in (None, case.kind):
            continue
        weights = getattr(options, f"{case.kind}_weights")
        row = measure(case, method, weights, options.batch, options.repeats)
        worse += loose(case, row)
        rows.append(row)
    common.report(rows, options.json)
    sys.exit(worse > 0)


if __name__ == "__main__":
    main()
