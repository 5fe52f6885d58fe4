"""Ratios measured in one run: interleaved rounds, medians, one thread.

Machines differ and are noisy, so every figure is a ratio to a plain PyTorch pass of the
same network, timed in the same rounds in this process. CPU time is taken, not wall
time: on a shared machine it is the steadier of the two for a single-threaded run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

from taut.cli.allocator import keep_pages


@dataclass(frozen=True)
class Row:
    """One line of a benchmark; ``limit`` and ``peer_ratio`` are for comparison.

    ``bound`` and ``peer_bound`` are mean lower bounds of the margins, where they matter.
    """

    name: str
    net: str
    method: str
    batch: int
    ratio: float
    limit: float | None
    peer: str
    peer_ratio: float | None
    bound: float | None = None
    peer_bound: float | None = None


def arguments(description: str | None, repeats: int) -> argparse.Namespace:
    return started(parser(description, repeats))


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print rows as JSON lines")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds (default %(default)s)")
    parser.add_argument("--net", help="measure this network only")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="leave malloc as it is; the command line of taut tells it to keep freed pages",
    )
    return parser


def started(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, and set up one thread and the allocator."""
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.default_allocator:
        keep_pages()
    return chosen


def ratios(
    plain: Callable[[], object], others: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Return the median over rounds of each function's CPU time over the plain one's."""
    for function in (plain, *others.values()):
        function()
    rounds: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(repeats):
        unit = _seconds(plain)
        for name, function in others.items():
            rounds[name].append(_seconds(function) / unit)
    return {name: statistics.median(values) for name, values in rounds.items()}


def _seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


_WORDS = ("name", "net", "method", "peer")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def report(rows: list[Row], as_json: bool) -> None:
    """Print rows as a table, or as JSON lines."""
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"ratio to the plain pass, one thread, torch {torch.__version__}")
    bounded = any(row.bound is not None for row in rows)
    columns = ["name", "net", "method", "batch", "ratio", "limit", "peer"]
    for column in [*columns, "mean bound", "peer's"] if bounded else columns:
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for row in rows:
        met = row.limit is None or row.ratio <= row.limit
        peer = f"{row.peer} {row.peer_ratio:g}" if row.peer_ratio is not None else row.peer
        limit = "" if row.limit is None else f"{row.limit:g}"
        shown = f"{row.ratio:.2f}" if met else f"[red]{row.ratio:.2f}[/red]"
        means = [_number(row.bound), _number(row.peer_bound)] if bounded else []
        table.add_row(row.name, row.net, row.method, str(row.batch), shown, limit, peer, *means)
    Console(width=130 if bounded else 110).print(table)
    print(f"{platform.machine()}, Python {platform.python_version()}", file=sys.stderr)
