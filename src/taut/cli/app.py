"""The command ``taut``: its sub-commands, and how errors leave it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from taut._version import __version__
from taut.cli import (
    attack,
    bounds,
    certify,
    data,
    methods,
    models,
    recipes,
    report,
    train,
    tune,
    verify,
)
from taut.cli.common import INTERRUPTED, interrupted
from taut.errors import TautError

# typer's own copy of click's classes, or click's, depending on its version
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """Prints every error a user can act on as one line, and exits with code 2.

    Anything else is a bug and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command."""
        try:
            return super().invoke(ctx)
        except TautError as error:
            _complain(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            interrupted()
            raise typer.Exit(INTERRUPTED) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse the command line and run it."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _UsageError as error:
            code = _misused(error)
        except typer.Abort:
            code = INTERRUPTED
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)


def _misused(error: Any) -> int:
    """Say in one line what is wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "taut"
    message = str(error.format_message()).rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help itself
        typer.echo(message, nl=bool(message))
        return 0
    _complain(f"{message[:1].lower()}{message[1:]} (see `{path} --help`)")
    return int(error.exit_code)


app = typer.Typer(
    name="taut",
    cls=Commands,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,  # it would import PyTorch at every press of the tab key
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"taut {__version__}")
        raise typer.Exit


@app.callback()
def taut(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train image classifiers whose robustness can be proved, and prove it.

    The shortest way to see it work, in about five minutes:

    [bold]taut train demo[/bold]          train on 4,000 digits into runs/demo

    [bold]taut certify runs/demo[/bold]   prove what can be proved on 500 test digits

    [bold]taut report runs/demo[/bold]    one HTML page with curves, counts and counterexamples
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def page(command: Callable[..., None]) -> str:
    """Return a command's docstring as its help page: lines joined, but not those of examples."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    kept = "[bold]Examples"
    # The backspace tells typer to leave a paragraph's lines alone; newer versions always do.
    return "\n\n".join(
        f"\b{text}" if text.startswith(kept) else " ".join(text.split()) for text in paragraphs
    )


def _add(command: Callable[..., None], panel: str) -> None:
    app.command(command.__name__, help=page(command), rich_help_panel=panel)(command)


WORK, LOOK = "Train and prove", "Look things up"

_WORKING: tuple[Callable[..., None], ...] = (
    train.train,
    tune.tune,
    certify.certify,
    verify.verify,
    attack.attack,
    bounds.bounds,
    report.report,
)
_LOOKING: tuple[Callable[..., None], ...] = (recipes.recipes, methods.methods, models.models)
for _command in _WORKING:
    _add(_command, WORK)
for _command in _LOOKING:
    _add(_command, LOOK)
app.add_typer(data.app, rich_help_panel=LOOK)


def main() -> None:
    """Run the command line."""
    app()
