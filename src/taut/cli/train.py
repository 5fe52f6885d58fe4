"""``taut train``: carry out a recipe, or go on with a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.common import console, facts, note, print_json, resumable
from taut.cli.display import duration, percent, radius
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.api.planning import Plan
    from taut.store import RunFolder
    from taut.training import Recipe

MOST_EPOCHS = 1_000_000
"""No run is scaled to more."""

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe of `taut recipes`, or the path of a TOML file. Left out with --resume.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one value of the recipe, written as in TOML; may be repeated.",
        show_default="the recipe as it is",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        metavar="X",
        help="Train X times as many epochs; ramps, milestones and whatever else counts epochs "
        "keep their proportion to the run. 0.1 is a tenth. After --set.",
        show_default="the recipe's epochs",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Run folder to make. It must not hold anything yet.",
        show_default="runs/RECIPE",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="DIR",
        help="Go on with the run in this folder from its last finished epoch.",
        show_default="start a new run",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto (a GPU where there is one), cpu or cuda.",
        show_default="the recipe's train.device",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="CPU threads to compute with.",
        show_default="the recipe's train.threads",
    ),
]


def train(
    recipe: Name = None,
    settings: Set = None,
    scale: Scale = None,
    out: Out = None,
    resume: Resume = None,
    data_dir: options.DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: options.Json = False,
) -> None:
    """Train a network by a recipe and leave everything in a run folder.

    Every epoch ends with an evaluation on the validation split: natural accuracy, and attacked
    and certified accuracy at the recipe's certify.eps. Then a checkpoint is written, so that a
    run which was killed goes on with --resume and ends in the same weights, to the bit with one
    CPU thread.

    The folder gets config.json, metrics.jsonl, TensorBoard events and checkpoint.pt; at the end
    model.safetensors and summary.json (accuracies on validation images).

    [bold]Examples[/bold]
      taut train demo
      taut train mnist-0.3-ibp --data-dir data --threads 2
      taut train demo --set train.epochs=5 --set method.kappa_end=0 --out runs/a
      taut train sabr/mnist-0.1-sabr --scale 0.1 --data-dir data
      taut train --resume runs/a
    """
    from taut.api import fitting

    keep_pages()
    if resume is None:
        if recipe is None:
            raise ConfigError("name a recipe (see `taut recipes`), or a run to --resume")
        changed = chosen_recipe(recipe, settings or [], scale)
        path = out if out is not None else default_folder(recipe)
        opened = _new_run(changed, path, data_dir, device, threads)
    else:
        if recipe is not None or settings or scale is not None or out is not None:
            raise ConfigError(
                "--resume goes on with a run as it was started; leave out RECIPE, --set, --scale "
                "and --out"
            )
        opened = _old_run(resume, data_dir, device, threads)
    with opened as (plan, folder):
        summary = _carry_out(plan, folder, resume is not None)
    if not fitting.is_first_process():
        return
    if as_json:
        print_json({**summary, "run": str(folder.path)})
    else:
        _show(summary, folder.path)
    note(f"next: taut certify {folder.path}", as_json)


def chosen_recipe(name: str, settings: list[str], scale: float | None) -> Recipe:
    """Return a recipe as it is trained, which is what the run folder keeps."""
    from taut.training import apply_overrides, load

    chosen = apply_overrides(load(name), settings)
    if scale is None:
        return chosen
    if not 0.0 < scale < math.inf:
        raise ConfigError(
            f"--scale must be a number above 0, such as 0.1 for a tenth of the run; got {scale:g}"
        )
    if scale * chosen.train.epochs > MOST_EPOCHS:
        raise ConfigError(
            f"--scale {scale:g} makes more than {MOST_EPOCHS:,} epochs of {chosen.train.epochs}; "
            "give a smaller one"
        )
    scaled = chosen.scaled(scale)
    ends = [recipe.schedule.ends(1)[1] / recipe.train.epochs for recipe in (chosen, scaled)]
    if ends[0] <= 1.0 < ends[1]:
        raise ConfigError(
            f"--scale {scale:g} leaves {scaled.train.epochs} epoch(s), too few for warm-up and "
            "the ramp of eps; give a larger one"
        )
    return scaled


def default_folder(recipe: str) -> Path:
    """Return the run folder named after a recipe; dots in its name do not end it."""
    from taut.training import names

    name = recipe if recipe in names() else Path(recipe).name.removesuffix(".toml")
    return Path("runs") / name


def _plan(recipe: Recipe, data_dir: Path | None, device: str | None, threads: int | None) -> Plan:
    """Return a recipe's plan; device and threads do not become part of the recipe."""
    from taut.api import planning

    plan = planning.from_recipe(recipe, data_dir)
    settings = plan.settings
    if device is not None:
        settings = replace(settings, device=cast("Literal['auto', 'cpu', 'cuda']", device))
    if threads is not None:
        settings = replace(settings, threads=threads)
    return replace(plan, settings=settings)


@contextmanager
def _new_run(
    recipe: Recipe, path: Path, data_dir: Path | None, device: str | None, threads: int | None
) -> Iterator[tuple[Plan, RunFolder]]:
    from taut.api import fitting

    plan = _plan(recipe, data_dir, device, threads)
    with fitting.run_folder(plan, path, resume=False) as folder:
        yield plan, folder


@contextmanager
def _old_run(
    path: Path, data_dir: Path | None, device: str | None, threads: int | None
) -> Iterator[tuple[Plan, RunFolder]]:
    from taut.api import fitting, planning
    from taut.store import RunFolder
    from taut.training import from_dict

    with RunFolder.open(path, "train", write=fitting.is_first_process()) as folder:
        planning.refuse_custom(folder.recipe)
        yield _plan(from_dict(folder.recipe), data_dir, device, threads), folder


def _carry_out(plan: Plan, folder: RunFolder, resume: bool) -> Mapping[str, Any]:
    """Train with a live display; return the figures."""
    from taut.api import fitting
    from taut.cli.train_display import TrainingDisplay

    hint = f"go on with `taut train --resume {folder.path}`"
    if not fitting.is_first_process():  # the first one reports for all
        return fitting.summary(plan, fitting.train(plan, folder, resume))
    display = TrainingDisplay(console(stderr=True), plan.settings)
    with resumable(hint), display:
        result = fitting.train(plan, folder, resume, display.epoch_done, display.step_done)
    return fitting.summary(plan, result)


def _show(summary: Mapping[str, Any], path: Path) -> None:
    epochs = summary["epochs"]
    rows = [
        ("network", f"{summary['model']}, trained with {summary['method']}"),
        ("training", f"{epochs} epoch{'' if epochs == 1 else 's'}, {duration(summary['seconds'])}"),
    ]
    if summary["images"]:
        rows += [
            ("natural accuracy", percent(summary["natural_accuracy"])),
            ("certified accuracy", percent(summary["certified_accuracy"])),
            (
                "measured on",
                f"{summary['images']} {summary['split']} images of {summary['data']}, "
                f"eps {radius(summary['eps'])}",
            ),
        ]
    console().print(facts([*rows, ("written to", str(path))]))
