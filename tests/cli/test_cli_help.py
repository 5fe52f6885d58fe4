"""Help pages: every command and option is described, with its unit or metavar and default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from cli_helpers import Invoke

import taut
from taut.cli import app


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its words, groups opened."""
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, command
        else:
            waiting += [(f"{path} {name}".strip(), each) for name, each in inner.items()]


COMMANDS = dict(commands())


def test_the_commands_are_there() -> None:
    assert {path.split()[0] for path in COMMANDS} == {
        "train", "tune", "certify", "verify", "attack", "bounds", "report", "recipes", "methods",
        "models", "data",
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_parameter_is_described(path: str, invoke: Invoke) -> None:
    command = COMMANDS[path]
    page = invoke(*path.split(), "--help").stdout
    assert command.help
    for parameter in command.params:
        if parameter.name == "help":
            continue
        assert parameter.help, parameter.name
        assert parameter.help.split()[0] in page
        is_flag = getattr(parameter, "is_flag", False)
        if not is_flag:
            assert parameter.metavar, parameter.name
            assert parameter.metavar in page
            default = getattr(parameter, "show_default", True)
            shown = isinstance(default, str) or parameter.default is not None
            is_argument = parameter.param_type_name == "argument"
            assert parameter.required or shown or is_argument or "Default" in parameter.help, (
                parameter.name
            )


@pytest.mark.parametrize("path", sorted(path for path in COMMANDS if " " not in path))
def test_every_command_shows_examples(path: str, invoke: Invoke) -> None:
    page = invoke(path, "--help").stdout
    assert "Examples" in page
    assert f"  taut {path}" in page


def test_without_a_command_the_help_is_shown(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 0
    assert result.stdout == invoke("--help").stdout
    assert "taut train demo" in result.stdout
    assert all(path.split()[0] in result.stdout for path in COMMANDS)
    assert invoke("data").exit_code == 0
    assert "show" in invoke("data").stdout


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"taut {taut.__version__}\n"
