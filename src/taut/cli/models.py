"""``taut models``: the networks of the literature by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from taut.cli import options
from taut.cli.common import console, facts, print_json, table

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Network to describe.", show_default="list all"),
]


def models(name: Name = None, as_json: options.Json = False) -> None:
    """List the networks: input shape, parameters, ReLUs, layers, paper.

    A layer is written c@k/s/p: c filters of k x k, stride s, padding p. Input shape and classes
    follow the data set when a recipe builds one.

    [bold]Examples[/bold]
      taut models
      taut models cnn7 --json
    """
    from taut.errors import ConfigError
    from taut.models import MODELS

    if name is not None and name not in MODELS:
        raise ConfigError(f"no model is called {name!r}; choose one of {', '.join(MODELS)}")
    rows = [_described(each) for each in MODELS if name in (None, each)]
    if as_json:
        print_json(rows[0] if name is not None else {"models": rows})
    elif name is None:
        listed = table("name", "input", "parameters", "ReLUs", "paper",
                       numbers=("parameters", "ReLUs"))  # fmt: skip
        for row in rows:
            listed.add_row(
                row["name"], _by(row["input_shape"]), f"{row['parameters']:,}",
                f"{row['relus']:,}", row["paper"],
            )  # fmt: skip
        console().print(listed)
    else:
        shown = {**rows[0], "input_shape": _by(rows[0]["input_shape"])}
        cells = [(key.replace("_", " "), _text(value)) for key, value in shown.items()]
        console().print(facts(cells))


def _described(name: str) -> dict[str, Any]:
    from taut.models import MODELS, size

    entry, counted = MODELS[name], size(name)
    return {
        "name": name,
        "input_shape": list(entry.input_shape),
        "classes": entry.classes,
        "layers": entry.layers,
        "parameters": counted.parameters,
        "relus": counted.activations,
        "paper": entry.source,
    }


def _by(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
