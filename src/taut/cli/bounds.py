"""``taut bounds``: margin bounds of each bounding method, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.common import console, heading, note, print_json, table
from taut.cli.common import threads as computing_with
from taut.cli.display import Display, duration, percent, radius
from taut.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from taut.bounds import BoundMethod
    from taut.data import ImageSet

EVERY = 5.0
"""Seconds between two plain lines."""

USUAL = ("ibp", "crown-ibp", "crown")
"""Methods compared where none is asked for: those of the cascade."""

Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Bounding method, see `taut methods`; may be repeated.",
        show_default=", ".join(USUAL),
    ),
]
Lines = Annotated[
    str | None,
    typer.Option(
        "--lines",
        metavar="NAME",
        help="Bounding lines of the methods that have a choice: tight, adaptive, best of the two, "
        "constant, zero, one, same-slope.",
        show_default="best",
    ),
]
Norm = Annotated[
    str,
    typer.Option(
        "--norm",
        metavar="P",
        help="Norm of the ball of radius eps around each image, cut to the pixel range: inf, 2, 1.",
    ),
]
First = Annotated[int | None, options.first("100")]
Out = Annotated[Path | None, options.out("RUN/bounds-DATA-SPLIT-epsRADIUS", what="summary.json")]


def bounds(
    source: options.Source,
    data: options.Data = None,
    split: options.Split = "test",
    first: First = 100,
    eps: options.Eps = None,
    method: Methods = None,
    lines: Lines = None,
    norm: Norm = "inf",
    batch_size: options.BatchSize = 100,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Compare bounding methods by the lower bounds they prove for the margins.

    Per image the smallest margin bound over the wrong classes counts: its mean and minimum over
    the images, the share of images where it is positive, and the time. Bounds are computed in
    the network's precision; verdicts that take rounding into account come from `taut certify`.
    The figures go to summary.json in RUN/bounds-DATA-SPLIT-epsRADIUS; an earlier one is replaced.

    [bold]Examples[/bold]
      taut bounds runs/demo
      taut bounds runs/a --method crown --lines tight --first 20 --eps 0.05
      taut bounds runs/a --method crown --norm 2 --eps 0.5
      taut bounds model.safetensors --data mnist --eps 0.1 --json
    """
    from taut.api import results
    from taut.api.loading import network_name
    from taut.cli.source import open_source

    keep_pages()
    chosen = _methods(method or list(USUAL), lines)
    with computing_with(threads):
        opened = open_source(source, device)
        size = opened.radius(eps)
        images = opened.images(data, split, first, data_dir)
        name = results.folder_name("bounds", images, size)
        folder = opened.folder(out, name if norm == "inf" else f"{name}-l{norm}")
        figures = _measure(opened.model, images, size, norm, chosen, batch_size)
    figures["model"] = network_name(opened.architecture)
    results.write_figures(folder, "bounds", figures)
    if as_json:
        print_json({**figures, "folder": str(folder)})
    else:
        _show(figures)
        note(f"written to {folder}", as_json)


def _methods(names: Sequence[str], lines: str | None) -> dict[str, BoundMethod]:
    """Return the methods by name; ``lines`` is for those that have some."""
    from taut.bounds import Backward, method_named

    found = {name: method_named(name) for name in names}
    if lines is None:
        return found
    bending = {name for name, method in found.items() if isinstance(method, Backward)}
    if not bending:
        raise ConfigError(f"{', '.join(found)} has no lines to choose; leave out --lines")
    return {name: method_named(name, lines if name in bending else None) for name in found}


def _measure(
    model: nn.Module,
    images: ImageSet,
    eps: float,
    norm: str,
    methods: Mapping[str, BoundMethod],
    batch_size: int,
) -> dict[str, Any]:
    """Return the figures of every method, with a live display."""
    import torch

    from taut.api.bounding import bounds as bounds_of
    from taut.api.bounding import margins
    from taut.region import LpBall
    from taut.verify.inputs import check_model, placement

    device, dtype = placement(model)
    one = images.pixels(slice(0, 1)).to(device, dtype)
    check_model(model, one, images.labels, len(images))
    with torch.no_grad():  # the first pass of a process is slow, and no method's fault
        bounds_of(model, LpBall.around(one, eps, norm), "ibp")
    rows: list[dict[str, Any]] = []
    state = {"now": ""}

    def line() -> str:
        return state["now"]

    correct = 0
    with Display(console(stderr=True), line, line, every=EVERY), torch.no_grad():
        for name, method in methods.items():
            smallest, seconds = torch.empty(len(images)), 0.0
            for start in range(0, len(images), batch_size):
                state["now"] = f"{name}: {start} of {len(images)} images bounded"
                part = slice(start, start + batch_size)
                x, y = images.pixels(part).to(device, dtype), images.labels[part].to(device)
                began = time.perf_counter()
                region = LpBall.around(x, eps, norm)
                smallest[part] = margins(model, region, y, method).amin(1).cpu().float()
                seconds += time.perf_counter() - began
                if not rows:
                    correct += int((model(x).argmax(1) == y).sum())
            rows.append(_row(name, method, smallest, seconds))
    return {
        "kind": "bounds",
        "natural_accuracy": correct / len(images),
        "attacked_accuracy": None,
        "certified_accuracy": None,
        "images": len(images),
        "eps": eps,
        "norm": norm,
        "seconds": sum(row["seconds"] for row in rows),
        "verdicts": {},
        "data": images.name,
        "split": images.split,
        "methods": rows,
    }


def _row(name: str, method: BoundMethod, smallest: Tensor, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "lines": getattr(method, "lines", None),
        "mean_margin": float(smallest.mean()),
        "min_margin": float(smallest.min()),
        "proved": float((smallest > 0).double().mean()),
        "seconds": seconds,
    }


def _show(figures: Mapping[str, Any]) -> None:
    numbers = ("mean margin", "smallest margin", "proved", "time")
    rows = table("method", "lines", *numbers, numbers=numbers)
    for row in figures["methods"]:
        rows.add_row(
            row["name"],
            row["lines"] or "-",
            f"{row['mean_margin']:.4g}",
            f"{row['min_margin']:.4g}",
            percent(row["proved"]),
            duration(row["seconds"]),
        )
    screen = console()
    norm = "" if figures["norm"] == "inf" else f" in l_{figures['norm']}"
    heading(
        screen,
        f"{figures['model']} on {figures['data']}, {figures['split']} split, "
        f"{figures['images']} images, "
        f"eps {radius(figures['eps'])}{norm}",
    )
    screen.print(rows)
    screen.print(f"natural accuracy {percent(figures['natural_accuracy'])}")
