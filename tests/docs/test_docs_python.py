"""Every python block of the documentation runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from docs_pages import PAGES, Block, blocks, expected_output

WITH_PYTHON = [page for page in PAGES if page.name != "CONTRIBUTING.md" and blocks(page, "python")]


def run(block: Block, names: dict[str, Any]) -> str:
    """Run a block as the file its title names, so that messages show the reader's own lines."""
    name = block.title or f"<{block.place}>"
    code = compile(block.text, name, "exec")
    linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except Exception as error:
        pytest.fail(f"{block.place}: {type(error).__name__}: {error}")
    finally:
        linecache.cache.pop(name, None)
    return printed.getvalue()


def matches(shown: str, printed: str) -> bool:
    """Whether the text of a page is what was printed; ``...`` stands for anything."""
    told, found = (
        "\n".join(line.rstrip() for line in text.rstrip().splitlines()) for text in (shown, printed)
    )
    return re.fullmatch(re.escape(told).replace(re.escape("..."), ".*"), found, re.S) is not None


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    with torch.random.fork_rng(devices=[]):
        for block in blocks(page, "python"):
            printed, shown = run(block, names), expected_output(block)
            if shown is not None:
                assert matches(shown, printed), f"{block.place} printed:\n{printed}"
            else:
                assert not printed, f"{block.place} prints what the page does not show:\n{printed}"


def test_a_page_that_lies_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    (block,) = blocks(page, "python")
    shown = expected_output(block)
    assert shown == "3\n"
    assert not matches(shown, run(block, {}))
    page.write_text("```python\nprint(1 + 1)\n```\nprose\n```text\n3\n```\n")
    assert expected_output(blocks(page, "python")[0]) is None


def test_the_readme_shows_a_model_of_the_users_own() -> None:
    text = "".join(block.text for block in blocks(PAGES[0], "python"))
    assert "nn.Module" in text
    assert "taut.certify(" in text
    assert "taut.bounds(" in text
