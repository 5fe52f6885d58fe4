"""``taut tune``: find the number of cells for a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.common import console, note, print_json, resumable, say, table
from taut.cli.display import percent, radius
from taut.cli.train import Device, Scale, Set, Threads, chosen_recipe, default_folder
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.api.fitting import OnEpoch, OnStep
    from taut.api.tuning import Tuning
    from taut.training import Settings
    from taut.training.recipe import TuneBy

Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe of `taut recipes` whose network has cells, or the path of a TOML file.",
        show_default=False,
    ),
]
Numbers = Annotated[
    str | None,
    typer.Option(
        "--cells",
        metavar="N,N,...",
        help="Numbers of cells to try, from the coarsest grid on.",
        show_default="the recipe's tune.cells",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="WHAT",
        help="What counts on validation images: cell-accuracy, or certified, which IBP and "
        "CROWN-IBP prove at the recipe's certify.eps.",
        show_default="the recipe's tune.by",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder to make, with a run folder for each number of cells. The same command goes on "
        "with a tuning that was interrupted.",
        show_default="runs/RECIPE-cells",
    ),
]


def tune(
    recipe: Name,
    cells: Numbers = None,
    by: By = None,
    settings: Set = None,
    scale: Scale = None,
    out: Out = None,
    data_dir: options.DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: options.Json = False,
) -> None:
    """Train a recipe with several numbers of cells and name the best on validation images.

    Each number is trained from fresh weights in a run folder of its own, DIR/n-N, that every other
    command takes. The figures are in DIR/tuning.json. Chosen by cell accuracy, no finer grid is
    tried once the loss would not gain from narrower cells, unless tune.stop is false. Cell accuracy
    is accuracy on the images as they are; it proves nothing of the balls around them.

    [bold]Examples[/bold]
      taut tune abscert/mnist-0.1-dm-small --data-dir data
      taut tune abscert/mnist-0.1-dm-small --scale 0.2 --cells 2,3,5,9 --out runs/cells
      taut tune mine.toml --by certified --set train.epochs=5
    """
    from taut.api import tuning

    keep_pages()
    path = out if out is not None else _folder(recipe)
    chosen = tuning.prepare(chosen_recipe(recipe, settings or [], scale), _numbers(cells), _by(by))
    with resumable("go on with the same command"):
        found = tuning.tune(
            chosen,
            out=path,
            data_dir=data_dir,
            device=cast("Literal['auto', 'cpu', 'cuda'] | None", device),
            threads=threads,
            watch=_watch,
        )
    if as_json:
        print_json({**found.to_dict(), "folder": str(path)})
    else:
        _show(found, path)
    note(f"next: taut certify {found.best.run}", as_json)


def _folder(recipe: str) -> Path:
    runs = default_folder(recipe)
    return runs.parent / f"{runs.name}-cells"


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--cells must be whole numbers separated by commas, such as 2,3,5; got {text!r}"
        ) from None


def _by(text: str | None) -> TuneBy | None:
    from taut.training.recipe import TuneBy

    if text is not None and text not in get_args(TuneBy):
        raise ConfigError(f"--by must be cell-accuracy or certified; got {text!r}")
    return cast("TuneBy | None", text)


@contextmanager
def _watch(n: int, settings: Settings) -> Iterator[tuple[OnEpoch, OnStep]]:
    """Show one training as `taut train` does, under a line with its number of cells."""
    from taut.cli.train_display import TrainingDisplay

    say(f"{n} cell{'' if n == 1 else 's'}", stderr=True)
    display = TrainingDisplay(console(stderr=True), settings)
    with display:
        yield display.epoch_done, display.step_done


def _show(found: Tuning, path: Path) -> None:
    certified = found.by == "certified"
    what = ["cells", "cell accuracy", *(["certified accuracy"] if certified else ())]
    shown = table(*what, "the loss", "run", numbers=what)
    for trial in found.trials:
        cells: list[Any] = [str(trial.n), percent(trial.cell_accuracy)]
        if certified:
            cells.append(percent(trial.certified_accuracy))
        gains = "gains from no finer cells" if trial.stops else "may gain from finer cells"
        shown.add_row(*cells, gains if trial.upper else "-", trial.run.name)
    screen = console()
    screen.print(shown)
    best = found.best
    say(f"best: {best.n} cells, by {found.by} on validation images", stderr=False)
    if certified:
        say(f"certified accuracy is what IBP and CROWN-IBP prove at eps {radius(found.eps)}")
    if found.untried:
        say(f"not tried, since the loss gains from no finer cells: {_listed(found.untried)}")
    say(f"written to {path}")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
