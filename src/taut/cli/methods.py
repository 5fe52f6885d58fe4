"""``taut methods``: how networks can be trained, and how they can be bounded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from taut.cli import options
from taut.cli.common import console, facts, heading, print_json, table
from taut.errors import ConfigError

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Method to describe.", show_default="list all"),
]


def methods(name: Name = None, as_json: options.Json = False) -> None:
    """List training methods and bounding methods: formula, cost, paper.

    A training method is a choice of region, bound and combination of losses; a bounding method
    is a stage of `taut certify` and a row of `taut bounds`. Some names are both.

    [bold]Examples[/bold]
      taut methods
      taut methods crown-ibp
    """
    training, bounding = _training(), _bounding()
    if name is not None:
        training = [row for row in training if row["name"] == name]
        bounding = [row for row in bounding if row["name"] == name]
        if not training and not bounding:
            known = dict.fromkeys(row["name"] for row in (*_training(), *_bounding()))
            raise ConfigError(f"unknown method {name!r}; known: {', '.join(known)}")
    if as_json:
        print_json({"training": training, "bounding": bounding})
    elif name is None:
        _list(training, bounding)
    else:
        screen = console()
        for row in training:
            heading(screen, f"{row['name']}, a training method")
            screen.print(facts(list(_described(row))))
        for row in bounding:
            heading(screen, f"{chr(10) if training else ''}{row['name']}, a bounding method")
            screen.print(facts(list(_described(row))))


def _training() -> list[dict[str, Any]]:
    """Return what the registry says of each training method, with fields and recipes."""
    from taut.training import METHODS, load, names

    used = {recipe: load(recipe).method.name for recipe in names()}
    return [
        {
            "name": each.name,
            "title": each.title,
            "axes": each.axes,
            "formula": each.formula,
            "cost": each.cost,
            "paper": each.paper,
            "fields": _fields(each.method),
            "recipes": [recipe for recipe, method in used.items() if method == each.name],
        }
        for each in METHODS.values()
    ]


def _fields(method: object) -> dict[str, Any]:
    """Return what a recipe can set in ``[method]``, with its defaults.

    Fields of the axes stand side by side; one that several axes have stands in the table of its
    own axis alone, as a recipe has to say which. Parts of a field are a table.
    """
    from taut.training import GridPoint
    from taut.training.choose import AXES

    if not isinstance(method, GridPoint):
        return _plain(method)
    axes = {axis: getattr(method, axis) for axis in AXES}
    names = [field.name for value in axes.values() for field in dataclasses.fields(value)]
    found: dict[str, Any] = {}
    for axis, value in axes.items():
        own = _plain(value)
        if any(names.count(name) > 1 for name in own):
            found[axis] = {"name": _member_name(axis, value), **own}
        else:
            found |= own
    return {**found, "statistics": method.statistics}


def _plain(value: Any) -> dict[str, Any]:
    """Return a dataclass as a table; members of an axis inside it bring their names."""
    from taut.training.choose import AXES

    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if not dataclasses.is_dataclass(part):
            found[field.name] = part
            continue
        axis = next((a for a, members in AXES.items() if type(part) in members.values()), None)
        named = {} if axis is None else {"name": _member_name(axis, part)}
        found[field.name] = {**named, **_plain(part)}
    return found


def _member_name(axis: str, value: object) -> str:
    """Return what a recipe calls a member of an axis."""
    from taut.training.choose import AXES

    return next(name for name, cls in AXES[axis].items() if type(value) is cls)


def _bounding() -> list[dict[str, Any]]:
    from taut.bounds import METHODS

    return [dataclasses.asdict(method.info) for method in METHODS.values()]


def _list(training: list[dict[str, Any]], bounding: list[dict[str, Any]]) -> None:
    screen = console()
    trained = table("name", "what", "passes a step", "recipes", numbers=("recipes",))
    for row in training:
        count = len(row["recipes"])
        trained.add_row(row["name"], row["title"], row["cost"], str(count) if count else "-")
    heading(screen, "Training methods")
    screen.print(trained)
    bounded = table("name", "what", "cost", "memory")
    for row in bounding:
        bounded.add_row(row["name"], row["title"], row["cost"], row["memory"])
    heading(screen, "Bounding methods")
    screen.print(bounded)
    more = "`taut methods NAME` for formula, paper, settings and recipes"
    screen.print(f"[dim]K classes; {more}[/dim]")


def _described(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    words = {"title": "what", "fields": "settings"}
    for key, value in row.items():
        if key == "name" or not value:
            continue
        text = value
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} = {_toml(default)}" for name, default in value.items())
        elif isinstance(value, list):
            text = ", ".join(value)
        yield words.get(key, key), str(text)


def _toml(value: Any) -> str:
    """Return a value as a recipe writes it, tables on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(part)}" for name, part in value.items()) + " }"
    return json.dumps(value)
