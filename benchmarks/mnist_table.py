"""Train and evaluate every method on MNIST with DM-small p1; write results/mnist-dm-small.md.

    python benchmarks/mnist_table.py [--runs runs/mnist-dm-small] [--only NAME ...] [--list]
    python benchmarks/mnist_table.py --write

Resumable: a run goes on from its last epoch, and what results/mnist-dm-small.json holds is not
done again. Several processes may share a folder, each with rows of its own (``--only``). All rows
have the same split (5,000 training digits held out), optimiser, epochs for the same number of
digits, ramp of eps (from epoch 1 to half of the epochs) and decays of the rate (by 5 after 75 and
90 %); nothing was tuned, and the weights are those of the last epoch. A method's own fields are
those of its paper.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mnist_page
import torch
from mnist_rows import DEAR, FEW, FULL, GRIDDED, PART, ROWS, SHORT, Amount, Row
from torch import nn

import taut
from taut.bounds import interval, method_named
from taut.cli.allocator import keep_pages
from taut.data import ImageSet
from taut.graph import trace
from taut.training import METHODS, RateSchedule, Settings, choose
from taut.training.activation import ActivationSchedule
from taut.training.regularise import Regularisers
from taut.training.schedule import EpsRamp

HERE = Path(__file__).resolve().parent.parent / "results"
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
FULL_ROWS = (
    "IBP",
    "CROWN-IBP, beta 1 to 0",
    "GM-IBP, N = 5",
    "IBP, ParamRamp",
    "SABR",
    "AdvIBP",
    "PGD",
    "natural",
)
DRAWDOWN = (
    Row("IBP", "ibp"),
    Row("CROWN-IBP, beta 1", "crown-ibp", {"beta_end": 1.0}),
    Row("CROWN-IBP, beta 1 to 0", "crown-ibp"),
    Row("GM-IBP, N = 5", "gm-ibp", {"count": 5}),
    Row("GM-IBP, N = 5, literal weights", "gm-ibp", {"count": 5, "normalise": False}),
    Row("GM-CROWN-IBP, N = 5, beta 1", "gm-crown-ibp", {"count": 5}),
    Row("GM-CROWN-IBP, N = 5, beta 1 to 0", "gm-crown-ibp", {"count": 5, "beta_end": 0.0}),
    Row(
        "GM-CROWN-IBP, N = 5, beta 1, literal weights",
        "gm-crown-ibp",
        {"count": 5, "normalise": False},
    ),
)
"""Trained at eps 0.5 and evaluated on a grid; kappa from 1 to 0.5 in all of them."""


REPEATED = ("IBP", "CROWN-IBP, beta 1 to 0")
"""Full rows that have the smaller radius too, and more than one seed."""


def plan() -> Iterator[tuple[str, Row, float, Amount, int]]:
    """Yield (key, row, eps, amount, seed) in the order of importance."""
    for row in ROWS:
        yield key("part", row, 0.3, 0), row, 0.3, PART, 0
    for row in DRAWDOWN:
        yield key("grid", row, 0.5, 0), row, 0.5, GRIDDED, 0
    for row in ROWS:
        if row.label in FULL_ROWS:
            yield key("full", row, 0.3, 0), row, 0.3, FULL, 0
    for row in ROWS:
        yield key("part", row, 0.1, 0), row, 0.1, SHORT, 0
    for row in DEAR:
        yield key("few", row, 0.1, 0), row, 0.1, FEW, 0
    (sabr,) = (row for row in ROWS if row.label == "SABR")
    yield key("full", sabr, 0.1, 0), sabr, 0.1, FULL, 0
    repeated = [row for row in ROWS if row.label in REPEATED]
    for seed, eps in ((0, 0.1), *((seed, 0.3) for seed in range(1, FULL.seeds))):
        for row in repeated:
            yield key("full", row, eps, seed), row, eps, FULL, seed


def key(table: str, row: Row, eps: float, seed: int) -> str:
    label = "".join(c if c.isalnum() else "-" for c in row.label.lower())
    while "--" in label:
        label = label.replace("--", "-")
    return f"{table}-{label.strip('-')}-{eps}-{seed}"


def phases(row: Row, epochs: int) -> tuple[int, dict[str, Any]]:
    """Return the epoch in which eps begins to grow, and the fields of a method in epochs.

    The two-objective methods train on attacked images first, as published (one natural epoch,
    then a ramp of the attack's eps); eps is full at the same time as in the other rows.
    """
    if "adv" not in row.method:
        return 1, dict(row.fields)
    start = epochs // 5
    own = {
        "attack_ramp": {"kind": "smoothed", "start": 1, "length": start},
        "threshold_start": epochs / 2,
        "threshold_length": epochs / 5,
    }
    return start, own | dict(row.fields)


def settings(row: Row, eps: float, amount: Amount, seed: int) -> Settings:
    epochs = amount.epochs
    start, _ = phases(row, epochs)
    schedule = dict(row.schedule)
    if schedule:
        schedule |= {"eta_start": epochs // 2, "eta_length": max(1, epochs // 4)}
    return Settings(
        epochs=epochs,
        eps=eps,
        batch_size=16 if amount is FEW else 128,
        lr=1e-3,
        grad_clip=10.0,
        seed=seed,
        threads=1,
        init=row.init,  # type: ignore[arg-type]
        validate_every=epochs,
        schedule=EpsRamp("linear", start=start, length=epochs // 2 - start + 1),
        rate=RateSchedule("milestones", (0.75 * epochs, 0.9 * epochs), 0.2),
        regularise=Regularisers(**row.regularise),  # type: ignore[arg-type]
        activation=ActivationSchedule(**schedule),
    )


def train(row: Row, eps: float, amount: Amount, seed: int, folder: Path) -> tuple[nn.Module, float]:
    digits = taut.load_data("mnist", "train")[: amount.digits]
    torch.manual_seed(1000 + seed)  # the same initial weights for every method
    model = taut.build_model("dm-small-p1", (1, 28, 28), 10, activation=row.activation)
    result = taut.fit(
        model,
        digits,
        choose(row.method, phases(row, amount.epochs)[1]),
        settings=settings(row, eps, amount, seed),
        validation=taut.load_data("mnist", "validation"),
        out=folder,
        resume=True,
    )
    return result.model.eval(), sum(epoch["seconds"] for epoch in result.rows)


def errors(model: nn.Module, test: ImageSet, eps: float) -> dict[str, Any]:
    """Return errors in percent: natural and IBP on all digits, the cascade on the first 1,000."""
    found = verified(model, test, eps, "ibp")
    first = test[:1000]
    cascade = taut.certify(model, first.pixels(), first.labels, eps=eps)
    return {
        "natural": found["natural"],
        "ibp": found["error"],
        "first": {
            "natural": 100 * (1 - cascade.natural_accuracy),
            "attacked": 100 * (1 - cascade.attacked_accuracy),
            "verified": 100 * (1 - cascade.certified_accuracy),
        },
        "dead": dead(model, first, eps),
    }


@torch.no_grad()
def verified(model: nn.Module, images: ImageSet, eps: float, name: str) -> dict[str, float]:
    net = trace(model, images.shape).instance()
    right = proved = 0
    for start in range(0, len(images), 250):
        chunk = images[start : start + 250]
        x, y = chunk.pixels(), chunk.labels
        good = net(x).argmax(1) == y
        right += int(good.sum())
        margins = method_named(name).margins(net, taut.Box.around(x, eps), y)
        proved += int(((margins.amin(1) > 0) & good).sum())
    total = len(images)
    return {"natural": 100 * (1 - right / total), "error": 100 * (1 - proved / total)}


@torch.no_grad()
def dead(model: nn.Module, images: ImageSet, eps: float) -> dict[str, list[float]]:
    """Return, per activation layer, percentages of neurons over the digits' balls.

    ``dead``: no gradient anywhere in the ball (below the left knee, or beyond ParamRamp's right
    one); ``blocked``: the part of them beyond the right knee; ``unstable``: a knee inside.
    """
    net = trace(model, images.shape).instance()
    found: dict[str, list[float]] = {"dead": [], "blocked": [], "unstable": []}
    inter = interval.propagate(net, taut.Box.around(images.pixels(), eps))
    for index, readers in net.bent().items():
        bounds = inter.at(index)
        knee = getattr(readers[0], "high", None)
        left = bounds.upper <= 0
        right = torch.zeros_like(left) if knee is None else bounds.lower >= knee
        for name, which in (
            ("dead", left | right),
            ("blocked", right),
            ("unstable", readers[0].bends(bounds)),
        ):
            found[name].append(100 * float(which.double().mean()))
    return found


def grid(model: nn.Module, test: ImageSet) -> dict[str, Any]:
    """Return verified errors on a grid of eps: IBP on all digits, CROWN-IBP on 1,000."""
    first = test[:1000]
    return {
        "ibp": {str(e): verified(model, test, e, "ibp")["error"] for e in GRID},
        "crown-ibp": {str(e): verified(model, first, e, "crown-ibp")["error"] for e in GRID},
    }


def run(name: str, row: Row, eps: float, amount: Amount, seed: int, runs: Path) -> dict[str, Any]:
    model, seconds = train(row, eps, amount, seed, runs / name)
    test = taut.load_data("mnist", "test")
    begun = time.perf_counter()
    found: dict[str, Any] = {
        "label": row.label,
        "method": row.method,
        "table": name.split("-", 1)[0],
        "eps": eps,
        "seed": seed,
        "digits": amount.digits,
        "epochs": amount.epochs,
        "seconds": round(seconds),
        "date": time.strftime("%Y-%m"),
    }
    if name.startswith("grid"):
        found["grid"] = grid(model, test)
    else:
        found |= errors(model, test, eps)
    print(f"{name}: {seconds:.0f} s, evaluated in {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def held_in(path: Path) -> dict[str, Any]:
    """Return the rows that a file of results holds."""
    held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return held


def store(path: Path, name: str, figures: dict[str, Any]) -> None:
    """Add one row to the file of results, also while another process does."""
    lock = path.with_suffix(".lock")
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            time.sleep(0.2)
    try:
        held = held_in(path)
        held[name] = figures
        text = json.dumps(dict(sorted(held.items())), indent=1) + "\n"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)
    finally:
        lock.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/mnist-dm-small"))
    parser.add_argument("--results", type=Path, default=HERE / "mnist-dm-small.json")
    parser.add_argument("--only", nargs="*", help="parts of the names of rows to run")
    parser.add_argument("--list", action="store_true", help="name the rows and what is done")
    parser.add_argument("--write", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    for name, row, eps, amount, seed in plan():
        if options.write or (options.only and not any(part in name for part in options.only)):
            continue
        held = held_in(options.results)
        if options.list:
            print(f"{'done' if name in held else '    '}  {name}")
        elif name not in held:
            if row.method not in METHODS:
                print(f"{name}: no method {row.method}", file=sys.stderr)
                continue
            try:
                store(options.results, name, run(name, row, eps, amount, seed, options.runs))
            except taut.TautError as error:  # one row's failure is a result, and is shown as one
                failure = {"label": row.label, "failed": str(error), "eps": eps, "seed": seed}
                store(options.results, name, failure | {"table": name.split("-", 1)[0]})
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    if not options.list:
        held = held_in(options.results)
        options.results.with_suffix(".md").write_text(
            mnist_page.page(held, [name for name, *_ in plan()])
        )


if __name__ == "__main__":
    main()
