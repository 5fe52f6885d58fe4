"""The recipes of CONTRIBUTING.md do what they promise, in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs_pages import PAGES, ROOT, blocks, console_lines

PAGE = next(page for page in PAGES if page.name == "CONTRIBUTING.md")
OPERATORS = str(ROOT / "tests" / "soundness" / "test_operators.py")

TRACED = """
import pytest
import running
import taut
import torch
from taut.errors import UnsupportedOperator
from torch import nn

class Running(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim, self.head = dim, nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.cumsum(x, self.dim).relu().cumsum(dim=-1).flatten(1))

def test_the_operator_is_traced_and_exact_at_a_point():
    net = Running(1)
    x = torch.rand(2, 4, 3)
    for method in ("ibp", "crown-ibp", "crown"):
        found = taut.bounds(net, taut.Box.around(x, 0.0), method)
        torch.testing.assert_close(found.lower, net(x))

def test_what_the_rule_does_not_cover_is_refused():
    with pytest.raises(UnsupportedOperator, match="cumsum along the batch axis"):
        taut.trace(Running(0), (4, 3))
"""


REGISTERED = """
import sys

import inner

sys.modules["taut.training.region.inner"] = inner  # where the page puts it
import inner_ibp

from taut.training import REGIONS

REGIONS["inner-ball"] = inner.InnerBall


def test_the_named_method_is_the_point_of_the_grid():
    expected = choose("ibp", {"region": "inner-ball"})
    assert inner_ibp.METHOD.method == expected
"""


def written(title: str) -> str:
    """Return the block of the page that has this title."""
    (block,) = [block for block in blocks(PAGE, "python") if block.title == title]
    return block.text


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the repository's configuration; modules of ``folder`` come first."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT),
         "-p", "no:cacheprovider", "-p", "running", "-rA", "--tb=no", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def outcomes(done: subprocess.CompletedProcess[str], word: str) -> list[str]:
    """Return the names of the tests with an outcome, from pytest's short summary."""
    return re.findall(rf"^{word} .*::(.*?)(?: - .*)?$", done.stdout, re.M)


def test_the_operator_and_the_method_of_the_examples_work(tmp_path: Path) -> None:
    (tmp_path / "running.py").write_text(written("src/taut/operators/running.py"))
    (tmp_path / "inner.py").write_text(written("src/taut/training/region/inner.py"))
    named = written("src/taut/training/methods/inner_ibp.py")
    (tmp_path / "inner_ibp.py").write_text(named)
    row = REGISTERED + written("tests/training/test_training_grid.py")
    (tmp_path / "test_row.py").write_text(row)
    (tmp_path / "test_traced.py").write_text(TRACED)
    select = "running-sum or test_row or test_traced"
    done = pytest_in(tmp_path, "-k", select, OPERATORS, "test_row.py", "test_traced.py")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = outcomes(done, "PASSED")
    # Registered, and therefore fuzzed: both cases, as an operator and as an affine map.
    assert {f"{test}[running-sum-{case}]" for case in (0, 1) for test in (
        "test_interval_holds_every_point", "test_affine_maps_equal_the_dense_matrix"
    )} <= set(passed)  # fmt: skip
    assert "test_an_inner_ball_is_a_full_ball_of_its_radius" in passed
    assert "test_the_named_method_is_the_point_of_the_grid" in passed


def test_a_broken_sign_or_a_wrong_direction_fails_a_test(tmp_path: Path) -> None:
    (line,) = [line for _, line in console_lines(PAGE) if line.startswith("sed ")]
    told = re.fullmatch(r"sed -i 's/(.*?)/(.*?)/' src/(\S+)", line)
    assert told is not None
    shutil.copytree(ROOT / "src" / "taut", tmp_path / "taut")
    target = tmp_path / told[3]
    code = target.read_text()
    assert len(re.findall(told[1], code)) == 1
    target.write_text(re.sub(told[1], told[2], code))
    code = written("src/taut/operators/running.py")
    assert code.count("rows.flip(axis).cumsum(axis).flip(axis)") == 1
    wrong = code.replace("rows.flip(axis).cumsum(axis).flip(axis)", "rows.cumsum(axis)")
    (tmp_path / "running.py").write_text(wrong)
    # Two of the many that fail: hypothesis takes its time to make each failure small.
    select = "(enclose and relu-0 and tight) or (dense_matrix and running-sum-1)"
    done = pytest_in(tmp_path, "-k", select, OPERATORS)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = outcomes(done, "FAILED")
    assert any(name.startswith("test_lines_enclose_the_activation[relu") for name in failed)
    assert "test_affine_maps_equal_the_dense_matrix[running-sum-1]" in failed
