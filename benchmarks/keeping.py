"""Measure one thing after the other; keep their figures in a file, and write a page of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mnist_table import HERE, held_in, store

from taut.cli.allocator import keep_pages

Figures = dict[str, Any]


def options_for(
    description: str | None, name: str, things: str, threads: int
) -> argparse.ArgumentParser:
    """Return a parser with the options of :func:`kept`, and ``--runs`` and ``--seconds``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=Path("runs") / name)
    parser.add_argument("--results", type=Path, default=HERE / f"{name}.json")
    parser.add_argument("--only", nargs="*", help=f"parts of the names of {things}")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--write", action="store_true", help="only write the page")
    return parser


def kept(
    options: argparse.Namespace,
    measures: Mapping[str, Callable[[], Figures]],
    page: Callable[[Figures], str],
) -> None:
    """Measure what is asked for by its name, and write the page of all that is known."""
    torch.set_num_threads(options.threads)
    keep_pages()
    results: Path = options.results
    for name, measure in measures.items():
        if options.write or (options.only and not any(o in name for o in options.only)):
            continue
        found = measure()
        print(name, found, flush=True)
        store(results, name, found)
    results.with_suffix(".md").write_text(page(held_in(results)))
