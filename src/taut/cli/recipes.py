"""``taut recipes``: the training runs that come with taut."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any

import typer

from taut.cli import options
from taut.cli.common import console, print_json, say, table
from taut.cli.display import radius

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Recipe to print as a TOML file.", show_default="list all"),
]


def recipes(name: Name = None, as_json: options.Json = False) -> None:
    """List the recipes for `taut train`, or print one to start your own from.

    A recipe is a small TOML file: data, network, method, training, schedules, certification.
    The comments of each one say where its values come from.

    [bold]Examples[/bold]
      taut recipes
      taut recipes demo > mine.toml
      taut train mine.toml
    """
    from taut.training import load, names

    if name is not None:
        chosen = load(name)
        if as_json:
            print_json(chosen.to_dict())
            return
        say(files("taut").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8"))
        return
    rows = [{"name": each, **load(each).to_dict()} for each in names()]
    if as_json:
        print_json({"recipes": rows})
        return
    listed = table("recipe", "what", "method", "epochs", "eps", numbers=("epochs",))
    for row in rows:
        listed.add_row(*_cells(row))
    console().print(listed)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["title"],
        row["method"]["name"],
        str(row["train"]["epochs"]),
        radius(row["certify"]["eps"]),
    ]
