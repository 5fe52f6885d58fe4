"""A network trained once on real digits, and a way to call the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import RECIPE, Invoke
from typer.testing import CliRunner

from taut.cli import app


@pytest.fixture(scope="session", autouse=True)
def _wide_and_plain() -> Any:
    """Help and tables do not depend on the terminal the tests run in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")
        patch.setenv("TERM", "dumb")
        patch.setenv("NO_COLOR", "1")
        patch.delenv("FORCE_COLOR", raising=False)
        patch.delenv("TAUT_DATA", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Call `taut` in this process; an unexpected exception fails the test."""

    def call(*words: object) -> Any:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def trained(invoke: Invoke, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; do not write to it, copy it with `run`."""
    path = tmp_path_factory.mktemp("trained") / "a"
    result = invoke("train", recipe, "--out", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may write to."""
    shutil.copytree(trained, tmp_path / "a", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "a"
