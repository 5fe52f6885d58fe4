"""Hard instances, little time, little memory, kills and broken lists: one clear line each."""

from __future__ import annotations

import csv
import itertools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Invoke, environment
from onnx import TensorProto, helper, numpy_helper
from test_cli_certify import WORKER, verdicts

INPUTS, WIDTH = 24, 60


def hard_instance(folder: Path) -> tuple[Path, Path]:
    """A random network of two wide layers, and an output that comes near a level or not."""
    rng = np.random.default_rng(0)
    sizes = (INPUTS, WIDTH, WIDTH, 2)
    nodes, arrays, name = [], [], "x"
    for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((before, after)).astype(np.float32)
        shift = rng.standard_normal(after).astype(np.float32)
        arrays += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(shift, f"b{layer}"),
        ]
        last = layer == len(sizes) - 2
        made = "y" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], [made]))
        if not last:
            nodes.append(helper.make_node("Relu", [made], [f"r{layer}"]))
            name = f"r{layer}"
    graph = helper.make_graph(
        nodes, "hard",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        arrays,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    network, asked = folder / "hard.onnx", folder / "hard.vnnlib"
    network.write_bytes(model.SerializeToString())
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(INPUTS))
    text += "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    for i in range(INPUTS):
        text += f"(assert (<= X_{i} 1))\n(assert (>= X_{i} -1))\n"
    asked.write_text(text + "(assert (>= Y_0 1500))\n")
    return network, asked


@pytest.fixture
def hard(tmp_path: Path) -> tuple[Path, Path]:
    return hard_instance(tmp_path)


def lines_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("limit", [0.05, 1.0])
@pytest.mark.parametrize("stages", ["attack,ibp,crown-ibp,crown,alpha-crown,branch", "mip"])
def test_little_time_ends_in_time(
    invoke: Invoke, hard: tuple[Path, Path], stages: str, limit: float
) -> None:
    invoke("verify", *hard, "--stages", "ibp")  # what is imported once
    began = time.process_time()
    result = invoke("verify", *hard, "--timeout", limit, "--stages", stages)
    spent = time.process_time() - began
    assert result.exit_code == 0
    assert result.stdout in ("timeout\n", "unknown\n")
    (told,) = re.findall(r"timeout, ([0-9.]+) s", result.stderr)
    assert limit <= float(told)
    assert spent < 2 * limit + 1.5


def test_certify_with_little_time_says_so(invoke: Invoke, run: Path) -> None:
    words = ["certify", run, "--first", 4, "--eps", "0.2", "--stages", "crown,branch"]
    began = time.process_time()
    result = invoke(*words, "--timeout", "0.002")
    assert time.process_time() - began < 8
    assert result.exit_code == 0
    assert "timeout" in result.stdout
    (folder,) = run.glob("certify-*")
    found = verdicts(folder)
    assert len(found) == 4
    assert not any(verdict.status == "verified" for verdict in found)
    open_ = [verdict for verdict in found if verdict.status == "unknown"]
    assert open_
    assert {verdict.reason for verdict in open_} == {"timeout"}


SCARCE = """
import resource, sys, torch
torch.set_num_threads(1)
import taut, taut.api.deciding
from taut.verify.branch import Branch
from taut.models import build
torch.manual_seed(0)
model = build("dm-small-p1").eval()
x = torch.rand(1, 1, 28, 28)
y = model(x).argmax(1)
stages = ("clean", "crown", "branch")
taut.certify(model, x, y, 1e-5, cascade=taut.Cascade(("clean", "ibp", "crown")))
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = pages + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cascade = taut.Cascade(stages, timeout=1.5, branch=Branch(budget=int(sys.argv[2]) * 2**20))
for verdict in taut.certify(model, x, y, 0.02, cascade=cascade).verdicts:
    print(verdict.status, verdict.reason, verdict.margin <= 0)
"""


def test_little_memory_is_an_answer() -> None:
    """200 or 20 MB beyond what the libraries take, and a budget that fits in or says too much."""
    for most, budget in ((200, 150), (20, 4000)):
        done = subprocess.run(
            [sys.executable, "-c", SCARCE, str(most), str(budget)],
            env=environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answers = [line.split(" ") for line in done.stdout.splitlines()]
        assert len(answers) == 1
        assert most > 20 or answers[0][1] == "memory"
        for status, reason, negative in answers:
            assert (status, reason, negative) in {
                ("verified", "", "False"),
                ("falsified", "counterexample", "True"),
                *(("unknown", why, "True") for why in ("timeout", "memory")),
            }


def killed(words: list[str], until: Any) -> None:
    """Begin a command, and end it by SIGKILL when something has come about."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taut.cli", *words],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(1200):
            if until() or process.poll() is not None:
                break
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_list_killed_in_the_middle_goes_on_there(invoke: Invoke, tmp_path: Path) -> None:
    network, asked = hard_instance(tmp_path)
    easy = tmp_path / "easy.vnnlib"
    easy.write_text(asked.read_text().replace("1500", "1e9"))
    listed, out = tmp_path / "instances.csv", tmp_path / "out.csv"
    listed.write_text("hard.onnx,easy.vnnlib,9\nhard.onnx,hard.vnnlib,2\nhard.onnx,no.vnnlib,9\n")
    words = ["verify", "--instances", str(listed), "--out", str(out)]
    killed(words, lambda: len(lines_of(out)) == 1)
    before = out.read_bytes()
    assert [row["answer"] for row in lines_of(out)] == ["unsat"]
    result = invoke(*words)
    assert result.exit_code == 1  # a property is missing
    assert out.read_bytes().startswith(before)
    assert [row["answer"] for row in lines_of(out)] == ["unsat", "timeout", "error"]
    assert network.exists()


def test_a_certification_killed_in_branch_and_bound_goes_on(invoke: Invoke, run: Path) -> None:
    words = ["certify", str(run), "--first", "6", "--stages", "crown,branch", "--timeout", "5"]
    done = subprocess.run(
        [sys.executable, str(WORKER), "verdict", "5", *words],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder,) = run.glob("certify-*")
    kept = verdicts(folder)
    assert len(kept) == 4
    assert invoke(*words).exit_code == 0
    whole = verdicts(folder)
    assert len(whole) == 6
    assert [v for v in whole if v.index in {k.index for k in kept}] == kept
    assert {v.stage for v in whole} <= {"clean", "crown", "branch"}


LISTS = {
    "a folder": None,
    "no text": b"\xff\xfe\x00\x00",
    "zero bytes": b"a.onnx,b.vnnlib,3\n\x00\x00\n",
    "quotes that do not end": b'"a.onnx,b.vnnlib,3\n',
    "no number": b"a.onnx,b.vnnlib,soon\n",
    "not a number": b"a.onnx,b.vnnlib,nan\n",
    "endless": b"a.onnx,b.vnnlib,inf\n",
    "backwards": b"a.onnx,b.vnnlib,-3\n",
    "no property": b"a.onnx,,3\n",
    "nothing": b"\n\n",
    "a long field": b"a" * 200_000 + b",b.vnnlib,3\n,\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_broken_list_is_told_in_one_line(name: str, invoke: Invoke, tmp_path: Path) -> None:
    path, content = tmp_path / "list.csv", LISTS[name]
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    result = invoke("verify", "--instances", path, "--out", tmp_path / "out.csv")
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1000
    assert not (tmp_path / "out.csv").exists()


def test_a_broken_network_in_a_list_does_not_stop_the_others(
    invoke: Invoke, tmp_path: Path
) -> None:
    network, asked = hard_instance(tmp_path)
    asked.write_text(asked.read_text().replace("1500", "1e9"))
    content = network.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.onnx").write_text("no network")
    (tmp_path / "text.vnnlib").write_text("(assert (<= X_0 1))")
    listed, out = tmp_path / "instances.csv", tmp_path / "out.csv"
    listed.write_text(
        "cut.onnx,hard.vnnlib,9\ntext.onnx,hard.vnnlib,9\nhard.onnx,text.vnnlib,9\n"
        "hard.onnx,hard.vnnlib,9\n"
    )
    result = invoke("verify", "--instances", listed, "--out", out)
    assert result.exit_code == 1
    rows = lines_of(out)
    assert [row["answer"] for row in rows] == ["error", "error", "error", "unsat"]
    assert all("\n" not in row["reason"] for row in rows)
    assert "Traceback" not in result.stderr
