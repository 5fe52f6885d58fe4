"""Train and verify networks on cells of a pixel grid; write results/abscert.md.

    python benchmarks/cells_table.py [--runs runs/abscert] [--only NAME ...] [--list] [--train]
    python benchmarks/cells_table.py --write

Resumable like benchmarks/mnist_table.py: runs go on from their last epoch, and what
results/abscert.json holds is not done again. ``--train`` stops before verification.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cells_page
import torch
from cells_rows import PUBLISHED, SOUND, TRAINED_AT, Published, Sound
from mnist_rows import FULL
from mnist_table import HERE, held_in, store, verified
from torch import nn

import taut
from taut.api.fitting import run_folder, train
from taut.api.planning import from_recipe
from taut.api.straddling import straddling
from taut.attacks import Flips
from taut.cli.allocator import keep_pages
from taut.data import ImageSet
from taut.models import Cells
from taut.region import PIXELS
from taut.training import RateSchedule, Settings, choose
from taut.training.recipe import load
from taut.training.regularise import Regularisers
from taut.training.schedule import EpsRamp
from taut.verify import Cascade

FIRST, SECONDS = 1000, 10.0
"""Test images that are verified completely, and the time each gets."""

FIRST_PUBLISHED, SECONDS_PUBLISHED = 100, 5.0
"""The same for networks that were not trained for it, of which nearly all need branching."""

STAGES = ("clean", "ibp", "crown-ibp", "attack", "crown", "branch")

Job = Callable[[Path, bool], dict[str, Any] | None]


def plan() -> Iterator[tuple[str, Job]]:
    """Yield names of rows, in the order of importance, and what computes them."""
    for row in SOUND:
        for eps in (0.4, 0.2):
            yield f"sound-{_plain(row.label)}-{eps}", partial(_sound, row, eps)
    for published in PUBLISHED:
        yield f"published-{published.recipe.partition('/')[2]}", partial(_published, published)


def _plain(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label.lower()).split())


def settings(row: Sound, eps: float) -> Settings:
    """The settings of the full rows of results/mnist-dm-small.md."""
    epochs = FULL.epochs
    return Settings(
        epochs=epochs,
        eps=eps,
        batch_size=128,
        lr=1e-3,
        grad_clip=10.0,
        threads=1,
        init=row.init,  # type: ignore[arg-type]
        validate_every=epochs,
        schedule=EpsRamp("linear", start=1, length=epochs // 2),
        rate=RateSchedule("milestones", (0.75 * epochs, 0.9 * epochs), 0.2),
        regularise=Regularisers(**row.regularise),  # type: ignore[arg-type]
    )


def _sound(row: Sound, eps: float, folder: Path, train_only: bool) -> dict[str, Any] | None:
    torch.manual_seed(1000)  # the same initial weights for all
    model = taut.build_model("dm-small-p1", (1, 28, 28), 10, cells=dict(row.cells) or None)
    result = taut.fit(
        model,
        taut.load_data("mnist", "train"),
        choose(row.method, dict(row.fields)),
        settings=settings(row, eps),
        validation=taut.load_data("mnist", "validation"),
        out=folder,
        resume=True,
    )
    if train_only:
        return None
    test, net = taut.load_data("mnist", "test"), result.model.eval()
    return {
        "table": "sound",
        "label": row.label,
        "trained_at": eps,
        "digits": FULL.digits,
        "epochs": FULL.epochs,
        "edges": _edges(net),
        "at": {str(e): _figures(net, test, e) for e in TRAINED_AT[eps]},
    }


def _published(row: Published, folder: Path, train_only: bool) -> dict[str, Any] | None:
    recipe = load(row.recipe).scaled(row.scale)
    plan = from_recipe(recipe)
    with run_folder(plan, folder, resume=True) as run:
        result = train(plan, run, resume=True)
    if train_only:
        return None
    test, net = taut.load_data(recipe.data.name, "test"), result.model.eval()
    radii = sorted({e / 2 for e in row.eps} | set(row.eps))
    return {
        "table": "published",
        "recipe": row.recipe,
        "epochs": recipe.train.epochs,
        "cells": net[0].configuration(),
        "eps": list(row.eps),
        "errors": list(row.errors),
        "at": {str(e): _figures(net, test, e, FIRST_PUBLISHED, SECONDS_PUBLISHED) for e in radii},
    }


def _edges(net: nn.Sequential) -> list[float] | None:
    """The thresholds of a network on cells."""
    return net[0].thresholds.flatten().tolist() if isinstance(net[0], Cells) else None


def _figures(
    net: nn.Sequential, test: ImageSet, eps: float, count: int = FIRST, seconds: float = SECONDS
) -> dict[str, Any]:
    """Errors in percent at one radius: IBP on all images, complete on the first ones."""
    first = test[:count]
    begun = time.perf_counter()
    cascade = Cascade(stages=STAGES, timeout=seconds)
    if isinstance(net[0], Cells):
        flips = Flips(loss=cascade.attack.loss, targets=cascade.attack.targets)
        cascade = replace(cascade, attack=flips)
    found = taut.certify(net, first.pixels(), first.labels, eps=eps, cascade=cascade)
    return {
        **verified(net, test, eps, "ibp"),
        "first": {
            "natural": 100 * (1 - found.natural_accuracy),
            "attacked": 100 * (1 - found.attacked_accuracy),
            "verified": 100 * (1 - found.certified_accuracy),
            "images": count,
            "seconds": round(time.perf_counter() - begun),
        },
        "straddling": reached(net, first, eps),
    }


def reached(net: nn.Sequential, images: ImageSet, eps: float) -> dict[str, float] | None:
    """Pixels that an adversary moves to another cell: their share, and images without any."""
    if not isinstance(net[0], Cells):
        return None
    which = straddling(net[0].steps(), images.pixels(), eps, PIXELS).flatten(1)
    none = (~which.any(1)).double().mean()
    return {"share": 100 * float(which.double().mean()), "none": 100 * float(none)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/abscert"))
    parser.add_argument("--results", type=Path, default=HERE / "abscert.json")
    parser.add_argument("--only", nargs="*", help="parts of the names of rows to run")
    parser.add_argument("--list", action="store_true", help="name the rows and what is done")
    parser.add_argument("--train", action="store_true", help="train, verify another time")
    parser.add_argument("--write", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    for name, job in plan():
        if options.write or (options.only and not any(part in name for part in options.only)):
            continue
        if options.list:
            print(f"{'done' if name in held_in(options.results) else '    '}  {name}")
        elif name not in held_in(options.results):
            figures = job(options.runs / name, options.train)
            if figures is not None:
                store(options.results, name, figures | {"date": time.strftime("%Y-%m")})
            print(name, "done" if figures else "trained", flush=True)
    if not options.list and not options.train:
        names = [name for name, _ in plan()]
        page = cells_page.page(held_in(options.results), names)
        options.results.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
