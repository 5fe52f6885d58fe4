"""Every command line, option, recipe and key that the documentation mentions exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import command_tree
import pytest
import typer
from docs_pages import PAGES, ROOT, Block, blocks, console_lines, prose
from typer.testing import CliRunner

from taut.attacks import ATTACKS
from taut.bounds import METHODS as BOUNDING
from taut.cli import app
from taut.cli.recipes import matching
from taut.data import DATASETS, find_split
from taut.models import MODELS
from taut.operators import LINES
from taut.training import METHODS, apply_overrides, from_dict, load, loads, names
from taut.training.recipe import SECTIONS
from taut.verify.cascade import DEFAULT_STAGES
from taut.verify.complete import COMPLETE_STAGES

CONSOLE = [(place, line) for page in PAGES for place, line in console_lines(page)]
TOML = [block for page in PAGES for block in blocks(page, "toml")]
OUTSIDE = {"--strict", "--check"}
"""Options of other programs that the prose names."""
USAGE: type[Exception] = typer.BadParameter.__bases__[0]  # click's, or typer's own copy of it


def words(line: str) -> list[str]:
    """Split a shell line; variables in front, comments and redirections go."""
    split = shlex.split(line, comments=True)
    while split and re.fullmatch(r"[A-Z_]+=\S*", split[0]):
        split = split[1:]
    return split[: split.index(">")] if ">" in split else split


def descend(arguments: list[str]) -> tuple[str, Any, list[str]]:
    """Return the command that the first words name, and what follows them."""
    command, path, rest = command_tree.tree(), ["taut"], list(arguments)
    while getattr(command, "commands", {}) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"`{' '.join(path)}` has no command {rest[0]!r}"
        path.append(rest[0])
        command = command.commands[rest.pop(0)]
    return " ".join(path), command, rest


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command line without running it."""
    path, command, rest = descend(arguments)
    if {"--help", "-h", "--version"} & set(rest):
        assert set(rest) <= command_tree.options(command)
        return path, {}
    assert not getattr(command, "commands", {}), f"`{path}` needs a command"
    return path, command.make_context(path, rest).params


def check(path: str, given: dict[str, Any]) -> None:
    """Check the names among the values of a parsed command line."""
    recipe = given.get("recipe")
    if recipe is not None and not recipe.endswith(".toml"):
        assert recipe in names()
        apply_overrides(load(recipe), given["settings"] or [])
    for name in (given.get("data"), given.get("name") if path.startswith("taut data") else None):
        assert name is None or name in DATASETS, name
        if name is not None and "split" in given:
            find_split(DATASETS[name], given["split"])
    stages = given.get("stages")
    assert stages is None or set(stages.split(",")) <= {
        *DEFAULT_STAGES,
        *BOUNDING,
        *COMPLETE_STAGES,
    }
    assert given.get("lines") in (None, "best", *LINES)
    if path == "taut methods" and "name" in given:
        assert given["name"] in (None, *METHODS, *BOUNDING)
    if path == "taut models" and "name" in given:
        assert given["name"] in (None, *MODELS)
    if path == "taut recipes" and given.get("name") is not None:
        assert given["name"] in names() or matching(given["name"], names())
    if path == "taut bounds" and given:
        assert set(given["method"] or []) <= {*BOUNDING}
    if path == "taut attack" and given:
        assert given["method"] in ATTACKS


def test_there_are_command_lines_of_every_command() -> None:
    shown = {descend(words(line)[1:])[0] for _, line in CONSOLE if words(line)[:1] == ["taut"]}
    leaves = {
        " ".join(path)
        for path, command in command_tree.walk(command_tree.tree())
        if not getattr(command, "commands", {})
    }
    assert leaves <= shown


@pytest.mark.parametrize(("place", "line"), CONSOLE, ids=[place for place, _ in CONSOLE])
def test_command_lines_parse(place: str, line: str) -> None:
    program, *arguments = words(line)
    if program == "taut":
        path, given = parsed(arguments)
        if not _output_of(place).startswith("error: "):  # what is refused has a test of its own
            check(path, given)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in arguments if "=" not in word} <= set(targets)
    else:
        known = {"pip", "python", "python3", ".venv/bin/python", "git", "sed", "source", "cd"}
        assert program in known
        for word in arguments:
            if re.match(r"(src|tests|docs|benchmarks)/", word):
                assert (ROOT / word).exists(), word


def _output_of(place: str) -> str:
    """Return the line that a page shows under a command line."""
    name, number = place.rsplit(":", 1)
    (page,) = [page for page in PAGES if page.name == name]
    lines = page.read_text(encoding="utf-8").splitlines()
    return lines[int(number)] if int(number) < len(lines) else ""


REFUSED = [(p, line, _output_of(p)) for p, line in CONSOLE if _output_of(p).startswith("error: ")]


def test_pages_show_errors() -> None:
    assert len(REFUSED) >= 3


@pytest.mark.parametrize(("place", "line", "shown"), REFUSED, ids=[p for p, _, _ in REFUSED])
def test_errors_are_those_that_are_shown(
    place: str, line: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TAUT_DATA", raising=False)
    done = CliRunner().invoke(app, words(line)[1:])
    assert done.exit_code == 2
    assert done.stdout == ""
    pattern = re.escape(shown).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, done.stderr.strip()), done.stderr


def test_a_command_line_that_does_not_exist_is_noticed() -> None:
    for line in ("certify", "certify runs/a --epsilon 0.1"):
        with pytest.raises(USAGE):
            parsed(line.split())
    for line in ("prove runs/a", "data fetch mnist", "data"):
        with pytest.raises(AssertionError):
            parsed(line.split())
    with pytest.raises(AssertionError):
        check(*parsed(["train", "no-such-recipe"]))


@pytest.mark.parametrize("block", TOML, ids=[block.place for block in TOML])
def test_toml_blocks_are_recipes_or_parts_of_one(block: Block) -> None:
    if "[train]" in block.text:
        loads(block.text)
        return
    import tomllib

    part = tomllib.loads(block.text.replace("inner-ball", "full-ball").replace(", ratio = 0.5", ""))
    from_dict(load("demo").to_dict() | part)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_commands_options_and_keys_in_the_prose_exist(page: Path) -> None:
    every = set().union(
        *(command_tree.options(command) for _, command in command_tree.walk(command_tree.tree()))
    )
    keys = {f"{s}.{f}" for s, cls in SECTIONS.items() for f in cls.__dataclass_fields__}
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if code.startswith("taut ") and code != "taut ":
            _, command, rest = descend(
                [word for word in words(code)[1:] if not word.isupper() and word != "..."]
            )
            assert {w for w in rest if w.startswith("--")} <= command_tree.options(command), code
        elif code.startswith("--"):
            assert code.split()[0].split("=")[0] in every | OUTSIDE, code
        elif code.startswith("make ") and len(code.split()) == 2:
            assert f"\n{code.split()[1]}:" in (ROOT / "Makefile").read_text(), code
        elif re.fullmatch(rf"({'|'.join(SECTIONS)})\.(?!safetensors|py)\w+", code):
            assert code in keys or code.startswith("method."), code
