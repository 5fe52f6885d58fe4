"""The command line as a tree of commands, for the reference page and its tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer


def tree() -> Any:
    """Return the root command, as typer builds it."""
    from taut.cli import app

    return typer.main.get_command(app)


def walk(command: Any, path: tuple[str, ...] = ("taut",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of the tree with its words, groups before their members."""
    yield path, command
    for name, member in getattr(command, "commands", {}).items():
        yield from walk(member, (*path, name))


def options(command: Any) -> set[str]:
    """Return every spelling of a command's options."""
    found = {"--help", "-h"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def reference() -> str:
    """Return the reference of every command: what it does, its arguments and options."""
    parts = []
    for path, command in walk(tree()):
        if len(path) == 1:
            continue
        parts += [f"### `{' '.join(path)}`", *_prose(command.help or "")]
        if not getattr(command, "commands", {}):
            parts.append(_table(command))
    return "\n\n".join(parts)


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text, its examples as a console block."""
    for paragraph in re.split(r"\n\s*\n", _unmarked(text).strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if lines[0] == "Examples":
            commands = "\n".join(f"$ {line}" for line in lines[1:])
            yield f"```console\n{commands}\n```"
        else:
            yield " ".join(lines)


def _table(command: Any) -> str:
    lines = ["| argument or option | default | meaning |", "| --- | --- | --- |"]
    for parameter in command.params:
        if not getattr(parameter, "hidden", False) and "--help" not in parameter.opts:
            lines.append("| " + " | ".join(_row(parameter)) + " |")
    return "\n".join(lines)


def _row(parameter: Any) -> tuple[str, str, str]:
    meaning = " ".join(_unmarked(parameter.help or "").split()).replace("|", "\\|")
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        given = "required" if parameter.required else _default(parameter)
        return f"`{name}`", given, meaning
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else f" `{parameter.metavar or parameter.type.name.upper()}`"
    return names + metavar, _default(parameter), meaning


def _default(parameter: Any) -> str:
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = parameter.default() if callable(parameter.default) else parameter.default
    if value is None or value == () or value == []:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`"


def _unmarked(text: str) -> str:
    """Drop rich's markup and click's paragraph marks."""
    return re.sub(r"\[/?[a-z ]+\]", "", text.replace("\b", ""))
