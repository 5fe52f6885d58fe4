"""What the commands share: consoles, JSON, radii, results as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from taut.errors import ConfigError
from taut.region import check_eps

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from taut.verify.mip import MIP

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def console(*, stderr: bool = False) -> Console:
    """Return a console; into a file or a pipe it writes wide lines without colours."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and made.width < 120:
        made.width = 120
    return made


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON value on standard output; NaN and infinities become strings."""
    from taut.store.values import to_json

    typer.echo(json.dumps(to_json(value, "the result"), indent=2, allow_nan=False))


def say(text: str = "", *, stderr: bool = False) -> None:
    """Print a line as it is, however long."""
    typer.echo(text, err=stderr)


def note(text: str, as_json: bool) -> None:
    """Print a line for people: beside JSON it goes to standard error."""
    typer.echo(text, err=as_json)


def heading(screen: Console, text: str) -> None:
    """Print the line above a table."""
    screen.print(text, style="bold", markup=False)


def table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return a plain table; the columns in ``numbers`` are aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left")
    return made


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Return two columns: names and values."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column()
    for name, value in rows:
        made.add_row(name, Text(value))
    return made


def parse_eps(text: str) -> float:
    """Return the radius that a decimal number or a fraction such as ``8/255`` stands for.

    Raises
    ------
    ConfigError
        When it is neither.
    RegionError
        When it is negative, NaN or infinite.

    """
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(
            f"--eps must be a number such as 0.1 or a fraction such as 8/255; got {text!r}"
        ) from None
    return check_eps(value)


def parse_stages(text: str) -> tuple[str, ...]:
    """Return the stages of a comma-separated list; ``clean`` always comes first."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return ("clean", *[name for name in names if name != "clean"])


def programs(solver: str) -> MIP | None:
    """Return the settings of mixed-integer programs by another solver; None for the default."""
    if solver == "highs":
        return None
    from taut.verify.mip import MIP

    return MIP(solver=solver)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` CPU threads for the length of a ``with`` block."""
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interrupted(hint: str = "") -> None:
    """Say that Ctrl-C ended the command; a terminal shows ^C on a line that it begins with."""
    lead = "\n" if sys.stderr.isatty() else ""
    typer.echo(f"{lead}interrupted{'; ' if hint else ''}{hint}", err=True)


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """Turn Ctrl-C into one line that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        interrupted(hint)
        raise typer.Exit(INTERRUPTED) from None
