"""``taut recipes``: the training runs that come with taut."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from taut.cli import options
from taut.cli.common import console, print_json, say, table

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Recipe to print as a TOML file; or a part of names, or a pattern with `*`, to list.",
        show_default="list all",
    ),
]


def recipes(name: Name = None, as_json: options.Json = False) -> None:
    """List the recipes for `taut train`, or print one to start your own from.

    A recipe is a small TOML file: data, network, method, training, schedules, certification.
    The comments of each one say where its values come from. Those of published settings lie in
    a folder for each paper and are called PAPER/DATA-EPS-METHOD, eps in 255ths where the images
    have colours.

    [bold]Examples[/bold]
      taut recipes
      taut recipes sabr
      taut recipes "*/cifar10-2-*"
      taut recipes demo > mine.toml
      taut train mine.toml
    """
    from taut.training import load, names

    chosen = names() if name is None else matching(name, names())
    if name is not None and not chosen:
        recipe = load(name)  # raises the error that lists the names where there is no such file
        if as_json:
            print_json(recipe.to_dict())
        else:
            say(_text(name))
        return
    rows = [{"name": each, **load(each).to_dict()} for each in chosen]
    if as_json:
        print_json({"recipes": rows})
        return
    listed = table("recipe", "method", "network", "epochs", numbers=("epochs",))
    listed.columns[0].no_wrap = True  # to be copied
    for column in listed.columns[1:3]:
        column.overflow = "fold"
    for row in rows:
        listed.add_row(*_cells(row))
    console().print(listed)


def matching(name: str, known: list[str]) -> list[str]:
    """Return the recipes a part of names or a pattern stands for; none where it names one."""
    if name in known or Path(name).is_file():
        return []
    if "*" in name:
        return [each for each in known if fnmatchcase(each, name)]
    return [each for each in known if name in each]


def _text(name: str) -> str:
    """Return the file of a recipe that comes with taut, or at a path."""
    inside = files("taut").joinpath("recipes", f"{name}.toml")
    return (inside if inside.is_file() else Path(name)).read_text(encoding="utf-8")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["method"]["name"],
        row["model"]["name"],
        str(row["train"]["epochs"]),
    ]
