"""``taut data``: list, fetch and inspect data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.data.content import fault
from taut.data.describe import Dataset
from taut.data.download import get as download
from taut.data.locate import find, remedy, roots
from taut.data.read import read_part
from taut.data.registry import DATASETS, find_dataset
from taut.data.splits import members
from taut.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="data",
    help="List, fetch and inspect data sets.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help=f"Data set: {', '.join(DATASETS)}.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Data folder. Default: the folder that TAUT_DATA names, else the user's cache.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of a table. Default: a table.")
]


@app.command("list")
def list_command(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets, their splits (sizes in images) and whether their files are there.

    Opens no file: `taut data show NAME` checks the contents.
    """
    rows = [_summary(dataset, data_dir) for dataset in DATASETS.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    console = _console()
    table = Table(
        "name", "shape", "classes", "train", "validation", "test", "found", collapse_padding=True
    )
    for row in rows:
        sizes = (f"{row['splits'][name]:,}" for name in ("train", "validation", "test"))
        found = "yes" if row["folder"] else ", ".join(row["parts"]) or "no"
        table.add_row(
            row["name"], _shape(row["input_shape"]), str(len(row["classes"])), *sizes, found
        )
    console.print(table)
    for row in rows:
        _line(console, f"{row['name']}: {row['folder'] or 'run ' + row['remedy']}")


@app.command("get")
def get_command(
    name: Name,
    data_dir: DataDir = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            help="Fetch from this address instead of the public mirrors; the file name is "
            "appended. Checksums stay the published ones.",
            show_default="the public mirrors",
        ),
    ] = None,
) -> None:
    """Download a data set, check it against its published checksums, and lay it out for use.

    What is there already and good is not fetched again; what is damaged is replaced.
    """
    folder = download(name, data_dir, base_url, console=_console(stderr=True))
    typer.echo(f"{name} is ready in {folder}")


@app.command("show")
def show_command(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a data set: splits, images per class, where its files are and their checksums.

    Reads every file. A file that is not the published one makes the command fail. Counts are those
    of the splits that are there; the others have their published sizes.
    """
    dataset = find_dataset(name)
    facts = _summary(dataset, data_dir)
    facts["source"] = dataset.source
    facts["files"] = _files(dataset, data_dir)
    faults = [file["fault"] for file in facts["files"] if file["fault"]]
    whole = bool(facts["parts"]) and not faults
    facts["images_per_class"] = _counts(dataset, facts["parts"], data_dir) if whole else None
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(facts, dataset, data_dir)
    if faults:
        raise DataError(f"{'; '.join(faults)}. Run `{facts['remedy']}`")


def _summary(dataset: Dataset, data_dir: Path | None) -> dict[str, Any]:
    places = {part: find(dataset, part, data_dir) for part in dataset.cuts}
    found = (str(place.folder) for place in places.values() if place is not None)
    folders = dict.fromkeys(found)
    return {
        "name": dataset.name,
        "title": dataset.title,
        "input_shape": list(dataset.input_shape),
        "classes": list(dataset.classes),
        "splits": {name: split.size for name, split in dataset.splits.items()},
        "augmentation": dataset.augmentation,
        "parts": [part for part, place in places.items() if place is not None],
        "folder": None if None in places.values() else ", ".join(folders),
        "remedy": remedy(dataset, data_dir),
    }


def _files(dataset: Dataset, data_dir: Path | None) -> list[dict[str, Any]]:
    """Return, for every file of the parts that were found, where it is and what is wrong."""
    rows: list[dict[str, Any]] = []
    for part in dataset.cuts:
        place = find(dataset, part, data_dir)
        for file, path in place.files if place is not None else ():
            rows.append({"part": part, "path": str(path), "fault": fault(path, file)})
        if place is not None and place.layout.tree is not None:  # read_part tells its faults
            rows.append({"part": part, "path": str(place.folder), "fault": None})
    return rows


def _counts(
    dataset: Dataset, parts: list[str], data_dir: Path | None
) -> dict[str, list[int] | None]:
    """Return images per class of each split, None where its part is not there.

    Every part is read once.
    """
    labels = {part: read_part(dataset, part, data_dir)[1] for part in parts}
    counts: dict[str, list[int] | None] = dict.fromkeys(dataset.splits)
    for name, split in dataset.splits.items():
        if split.part not in labels:
            continue
        index = members(dataset, split, labels[split.part])
        chosen = labels[split.part] if index is None else labels[split.part][index]
        counts[name] = [int((chosen == label).sum()) for label in range(len(dataset.classes))]
    return counts


def _print(facts: dict[str, Any], dataset: Dataset, data_dir: Path | None) -> None:
    from rich.table import Table

    console = _console()
    _line(console, facts["title"])
    _line(console, facts["source"])
    _line(
        console,
        f"{_shape(facts['input_shape'])} pixels, {len(facts['classes'])} classes, usual training "
        f"augmentation: {facts['augmentation']}",
    )
    counts = {name: each for name, each in (facts["images_per_class"] or {}).items() if each}
    table = Table("class", *facts["splits"], title="images")
    for label, title in enumerate(facts["classes"] if counts else ()):
        cells = (f"{counts[name][label]:,}" if name in counts else "-" for name in facts["splits"])
        table.add_row(title, *cells)
    table.add_section()
    sizes = {**facts["splits"], **{name: sum(each) for name, each in counts.items()}}
    table.add_row("all", *(f"{size:,}" for size in sizes.values()))
    console.print(table)
    for file in facts["files"]:
        good = "names and numbers good" if Path(file["path"]).is_dir() else "checksum good"
        state = "differs from the published file" if file["fault"] else good
        _line(console, f"{file['part']}: {file['path']}: {state}")
    if facts["folder"] is None:
        searched = ", ".join(str(root) for root in roots(dataset, data_dir))
        absent = ", ".join(part for part in dataset.cuts if part not in facts["parts"])
        _line(console, f"{absent} not found (searched {searched or dataset.package})")
        _line(console, f"run {facts['remedy']}")


def _line(console: Console, text: str) -> None:
    """Print a line as it is: paths are neither wrapped nor coloured."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
