"""``taut report``: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import options
from taut.cli.common import note, print_json, say
from taut.errors import DataError, ModelError, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from taut.report import ReportData
    from taut.store import RunFolder

    Pictures = Callable[[Sequence[int]], NDArray[np.floating]]
    Classes = Callable[[NDArray[np.floating]], NDArray[np.integer]]

Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder, or the folder of one certification or attack.",
        show_default=False,
    ),
]
Certification = Annotated[
    str | None,
    typer.Option(
        "--certification",
        metavar="NAME",
        help="Which of the run's certifications or attacks to show: the name of its folder.",
        show_default="the latest certification",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="HTML file to write.",
        show_default="RUN/report.html",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]


def report(
    run: Run,
    certification: Certification = None,
    out: Out = None,
    show: Open = False,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Write a run as one self-contained HTML page.

    Training curves, natural, attacked and certified accuracy, verdicts by stage, a gallery of
    images with their counterexamples, configuration, versions and timings. The page loads
    nothing from anywhere.

    [bold]Examples[/bold]
      taut report runs/demo --open
      taut report runs/a --certification certify-mnist-test-eps0.1 --out a.html
    """
    from taut.report import write

    parts = _find(run, certification)
    data = _collect(parts, data_dir)
    path = write(data, out if out is not None else run / "report.html")
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        say(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB, needs no network)")
    if show:
        typer.launch(str(path.resolve()))


@dataclass(frozen=True)
class Parts:
    """The folders a report is made of; a result without a run, or a run without a result."""

    training: RunFolder | None
    result: RunFolder | None


def _find(path: Path, name: str | None) -> Parts:
    from taut.store import RunFolder

    opened = RunFolder.open(path)
    if opened.kind != "train":
        if name is not None:
            raise RunError(f"{path} is the folder of one result; leave out --certification")
        above = path.resolve().parent
        is_run = (above / "config.json").is_file() and RunFolder.open(above).kind == "train"
        training = RunFolder.open(path.parent) if is_run and path.parent != path else None
        return Parts(training, opened)
    if name is not None:
        return Parts(opened, RunFolder.open(path / name))
    latest = _latest(opened)
    return Parts(opened, None if latest is None else RunFolder.open(latest))


def _latest(run: RunFolder) -> Path | None:
    """Return the certification the run's summary names, else the one written to last."""
    if (run.path / "summary.json").is_file():
        named = run.read_summary().get("certification")
        if isinstance(named, str) and (run.path / named / "journal.sqlite").is_file():
            return run.path / named
    journals = list(run.path.glob("certify-*/journal.sqlite"))
    return max(journals, key=lambda path: path.stat().st_mtime).parent if journals else None


def _collect(parts: Parts, data_dir: Path | None) -> ReportData:
    """Gather what the folders hold, with images and classes where they can be had."""
    from taut.cli.again import commands
    from taut.report import collect

    training, result = parts.training, parts.result
    if result is None:
        assert training is not None
        data = collect(training, commands=commands(training, None))
        # the seconds of training would be shown as those of a certification
        return replace(data, summary={**data.summary, "seconds": None})
    meta = _meta(result)
    names, pictures = _pictures(meta, data_dir)
    data = collect(
        result,
        images=pictures,
        classify=_classifier(training, meta),
        class_names=names,
        commands=commands(training, result),
    )
    if training is not None:
        config = {**training.config, "certification": data.config.get("certification", {})}
        data = replace(data, config=config, metrics=training.read_metrics())
    return _with_cells(_only_summarised(data, pictures))


def _only_summarised(data: ReportData, pictures: Pictures | None) -> ReportData:
    """Leave out verdicts of an earlier, larger certification that the figures do not count."""
    from taut.report.gallery import choose

    count = data.summary.get("images", len(data.verdicts))
    if count >= len(data.verdicts):
        return data
    verdicts = [verdict for verdict in data.verdicts if verdict.index < count]
    wanted = choose(verdicts).indices
    images = (
        {} if pictures is None or not wanted else dict(zip(wanted, pictures(wanted), strict=True))
    )
    return replace(data, verdicts=verdicts, images=images)


def _with_cells(data: ReportData) -> ReportData:
    """Add the cells of some images, where the summary says that the network has a grid."""
    import torch

    from taut.api import straddling
    from taut.region import PIXELS
    from taut.report.cells import chosen
    from taut.report.data import CellView

    grid = data.summary.get("cells")
    if grid is None or data.eps is None:
        return data
    steps = straddling.steps_of(grid["grid"])
    views = {}
    for verdict in chosen(data.verdicts):
        if verdict.index not in data.images:
            continue
        image = torch.from_numpy(data.images[verdict.index])[None]
        other, moved = verdict.counterexample, None
        if other is not None:
            moved = (steps.cell(other[None]) - steps.cell(image))[0].numpy()
        reached = straddling.straddling(steps, image, data.eps, PIXELS)[0].numpy()
        shown = straddling.levels(steps, image)[0].numpy()
        views[verdict.index] = CellView(shown, reached, moved)
    return replace(data, cells=views)


def _meta(result: RunFolder) -> dict[str, Any]:
    if not (result.path / "journal.sqlite").is_file():
        raise RunError(f"{result.path} holds no verdicts to report; certify or attack first")
    with result.journal() as journal:
        return journal.meta


def _pictures(
    meta: dict[str, Any], data_dir: Path | None
) -> tuple[Sequence[str] | None, Pictures | None]:
    """Return class names and a reader of images; without the data, say so and go on."""
    import torch

    from taut.api.loading import load_data
    from taut.data import DATASETS

    if meta["data"] not in DATASETS:
        return None, None
    names = DATASETS[meta["data"]].classes
    try:
        found = load_data(meta["data"], meta["split"], data_dir)
    except DataError as error:
        note(f"the report has no images: {error}", as_json=True)
        return names, None
    return names, lambda indices: found.pixels(torch.tensor(indices)).numpy()


def _classifier(training: RunFolder | None, meta: dict[str, Any]) -> Classes | None:
    """Return the certified network as a function on images, if its weights are still there."""
    import torch

    from taut.api.loading import load_model
    from taut.store import hash_weights

    if training is None:
        return None
    try:
        model = load_model(training.path)
    except (ModelError, RunError) as error:
        note(f"the report does not name the classes of counterexamples: {error}", as_json=True)
        return None
    if hash_weights(model.state_dict()) != meta["weights"]:
        raise RunError(
            f"{training.path} has other weights than those that were certified; certify it again"
        )

    def classify(images: NDArray[np.floating]) -> NDArray[np.integer]:
        with torch.no_grad():
            found: NDArray[np.integer] = model(torch.from_numpy(images)).argmax(1).numpy()
        return found

    return classify
