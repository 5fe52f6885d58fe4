"""Networks for photographs on cells: forward, train, cell accuracy, attack, and their memory.

    TAUT_DATA=DIR python benchmarks/large_cells.py [--json] [--net NAME] [--epochs N] [--cells N]

Reads the JPEG files of DIR/imagenet-sample (or of --images), whose names begin with a WordNet id,
at 224 x 224 pixels. Each network starts from random weights, is trained on these images for some
epochs and attacked on the first of them. The attack counts where it changes the network's own
answer, since networks trained this little are seldom right; PGD finds its way through the cells
by their straight-through gradient.

Every network runs in a process of its own, whose peak resident memory is read from outside
(child.py); the exit code is 1 where one takes more than 8 GB.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import child
import common
import numpy as np
import torch

import taut
from taut.data.imagenet import WNIDS
from taut.errors import DataError

LIMIT = 8 * 1024  # MB
NETS = ("resnet18", "vgg11", "alexnet", "inception-v1")
SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Row:
    """What is printed of one network; shares are of the images."""

    net: str
    cells: int
    parameters: int
    images: int
    step_seconds: float
    cell_accuracy: float
    straddling: float
    attacked: int
    changed: float
    peak_mb: float
    failure: str


def photographs(folder: Path) -> taut.ImageSet:
    """Return the JPEG files of a folder, labelled by the id that their names begin with."""
    from PIL import Image

    labels = {wnid: label for label, wnid in enumerate(WNIDS)}
    paths = [path for path in sorted(folder.glob("n*.JPEG")) if path.name[:9] in labels]
    if not paths:
        raise DataError(f"{folder} holds no JPEG files named by a WordNet id")
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            sized = image.convert("RGB").resize(SHAPE[1:], Image.Resampling.BILINEAR)
            pixels.append(np.asarray(sized).transpose(2, 0, 1))
    images = torch.from_numpy(np.stack(pixels))
    return taut.ImageSet.from_tensors(
        images, torch.tensor([labels[path.name[:9]] for path in paths]), len(WNIDS)
    )


def set_up(net: str, folder: str, settings: Mapping[str, Any]) -> child.Work:
    """Return the work: build a network, train it, look at its cells, attack it."""
    images = photographs(Path(folder))

    def work() -> Mapping[str, Any]:
        torch.manual_seed(0)
        grid = {"n": settings["cells"], "emit": "ends"}
        model = taut.build_model(net, SHAPE, len(WNIDS), cells=grid)
        training = taut.Settings(
            epochs=settings["epochs"], eps=settings["eps"], batch_size=settings["batch"],
            optimiser="sgd", lr=0.01, device="cpu", threads=1,
        )  # fmt: skip
        start = time.perf_counter()
        taut.fit(model, images, "natural", settings=training)
        steps = settings["epochs"] * -(-len(images) // settings["batch"])
        seconds = (time.perf_counter() - start) / steps
        x = images.pixels()
        few = x[: settings["attacked"]]
        with torch.no_grad():
            answers = model(few).argmax(1)
        search = taut.PGD(steps=settings["steps"])
        found = taut.attack(model, few, answers, settings["eps"], search, batch_size=4)
        box = taut.Box.around(few, settings["eps"])
        bends = model[0].steps().bends(taut.Bounds(box.lower, box.upper))
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "images": len(images),
            "step_seconds": round(seconds, 2),
            "cell_accuracy": taut.cell_accuracy(model, x, images.labels, batch_size=8),
            "straddling": round(float(bends.double().mean()), 4),
            "attacked": len(few),
            "changed": float(found.success.double().mean()),
        }

    return work


def rows(options: Any) -> Iterator[Row]:
    settings = {
        "cells": options.cells, "epochs": options.epochs, "batch": options.batch,
        "eps": options.eps / 255, "attacked": options.attacked, "steps": options.steps,
    }  # fmt: skip
    for net in NETS:
        if options.net not in (None, net):
            continue
        found = child.measure(
            set_up, net, str(options.images), settings, keep=not options.default_allocator
        )
        nothing = {
            "parameters": 0, "images": 0, "step_seconds": 0.0, "cell_accuracy": 0.0,
            "straddling": 0.0, "attacked": 0, "changed": 0.0,
        }  # fmt: skip
        peak = round(found.peak / child.MB, 1)
        answers = {**nothing, **found.answers}
        yield Row(net=net, cells=options.cells, peak_mb=peak, failure=found.failure, **answers)


def show(row: Row) -> None:
    if row.failure:
        print(f"{row.net:<13} {row.failure}", flush=True)
        return
    verdict = "" if row.peak_mb <= LIMIT else "  above the limit"
    print(
        f"{row.net:<13} {row.parameters / 1e6:>7.1f} M {row.step_seconds:>8.2f} s "
        f"{100 * row.cell_accuracy:>9.1f} % {100 * row.straddling:>9.1f} % "
        f"{100 * row.changed:>6.1f} % of {row.attacked:<3} {row.peak_mb:>8.0f} MB{verdict}",
        flush=True,
    )


def main() -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--images", type=Path, help="folder of JPEG files named by WordNet ids")
    parser.add_argument("--cells", type=int, default=31, help="along a pixel's range")
    parser.add_argument("--epochs", type=int, default=1, help="of training")
    parser.add_argument("--batch", type=int, default=11, help="images of a training step")
    parser.add_argument("--eps", type=float, default=4.0, help="radius in 255ths of [0, 1]")
    parser.add_argument("--attacked", type=int, default=8, help="the first so many images")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    options = common.started(parser)
    if options.images is None:
        options.images = Path(os.environ.get("TAUT_DATA", ".")) / "imagenet-sample"
    if not options.json:
        print(
            f"{'net':<13} {'weights':>9} {'a step':>10} {'cells right':>11} {'straddling':>11} "
            f"{'changed by PGD':>16} {'peak':>9}"
        )
    failed = 0
    for row in rows(options):
        failed += bool(row.failure) or row.peak_mb > LIMIT
        print(json.dumps(asdict(row)), flush=True) if options.json else show(row)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
