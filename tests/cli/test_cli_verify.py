"""`taut verify`: first line, counterexamples, exit codes, and whole lists of instances."""

from __future__ import annotations

import csv
import gzip
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cli_helpers import Invoke
from onnx import TensorProto, helper, numpy_helper

from taut.api import instances as listing
from taut.store.locking import alone
from taut.verify.mip import SOLVERS, HiGHS, Program, Solution
from taut.verify.outcome import Answer, Outcome


def write_network(path: Path, seed: int = 0) -> Path:
    """A network of two inputs, one hidden layer and three outputs."""
    generator = np.random.default_rng(seed)
    shapes = {"w": (2, 6), "b": (6,), "v": (6, 3), "c": (3,)}
    arrays = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content = model.SerializeToString()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_property(path: Path, unsafe: str, end: str = "1") -> Path:
    names = ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    text = "".join(f"(declare-const {name} Real)\n" for name in names)
    for name in names[:2]:
        text += f"(assert (<= {name} {end}))\n(assert (>= {name} -0.7))\n"
    text += f"(assert {unsafe})\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def run_network(path: Path, x: list[float]) -> list[float]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.array([x], dtype=np.float32)}
    return [float(z) for z in session.run(None, feed)[0][0]]


REACHED, FAR = "(or (>= Y_0 Y_1) (and (<= Y_2 Y_0) (>= Y_2 0.5)))", "(>= Y_0 1000)"


def error_of(invoke: Invoke, *words: object) -> str:
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_counterexample_is_printed_and_is_one(
    packed: str, invoke: Invoke, tmp_path: Path
) -> None:
    network = write_network(tmp_path / f"net.onnx{packed}")
    asked = write_property(tmp_path / f"prop.vnnlib{packed}", REACHED)
    result = invoke("verify", network, asked)
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first == "sat"
    text = "\n".join(rest)
    assert re.fullmatch(r"\((\([XY]_\d+ [-0-9.e]+\)\s*)+\)", text)
    pairs = re.findall(r"\(([XY])_(\d+) ([-0-9.e]+)\)", text)
    assert [kind + index for kind, index, _ in pairs] == ["X0", "X1", "Y0", "Y1", "Y2"]
    x = [Fraction(value) for kind, _, value in pairs if kind == "X"]
    assert all(Fraction("-0.7") <= value <= 1 for value in x)
    y = run_network(network, [float(value) for value in x])
    assert [float(value) for kind, _, value in pairs if kind == "Y"] == y
    assert y[0] >= y[1] or (y[2] <= y[0] and y[2] >= 0.5)


def test_a_proof_and_what_is_left_open(invoke: Invoke, tmp_path: Path) -> None:
    network, far = write_network(tmp_path / "n.onnx"), write_property(tmp_path / "far", FAR)
    result = invoke("verify", network, far)
    assert (result.exit_code, result.stdout) == (0, "unsat\n")
    assert "stage ibp" in result.stderr
    near = write_property(tmp_path / "near", REACHED)
    result = invoke("verify", network, near, "--stages", "ibp", "--threads", 1)
    assert (result.exit_code, result.stdout) == (0, "unknown\n")
    assert "stages exhausted" in result.stderr
    result = invoke("verify", network, near, "--timeout", "1e-9")
    assert (result.exit_code, result.stdout) == (0, "timeout\n")


def test_a_counterexample_that_onnx_runtime_does_not_repeat_is_none(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *given: [np.zeros((1, 3), dtype=np.float32)]
    )
    network = write_network(tmp_path / "net.onnx")
    asked = write_property(tmp_path / "prop.vnnlib", "(<= Y_0 -0.125)")
    result = invoke("verify", network, asked, "--stages", "attack,ibp")
    assert (result.exit_code, result.stdout) == (0, "unknown\n")
    assert "not replayed" in result.stderr


def test_programs_are_given_to_the_solver_that_is_named(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = []

    class Watched(HiGHS):
        def solve(self, program: Program, *limits: float, **named: float) -> Solution:
            programs.append(program)
            return super().solve(program, *limits, **named)

    monkeypatch.setitem(SOLVERS, "watched", ("highspy", Watched))
    network, near = write_network(tmp_path / "n.onnx"), write_property(tmp_path / "near", REACHED)
    words = ["verify", network, near, "--stages", "mip"]
    usual = invoke(*words)
    assert programs == []
    found = invoke(*words, "--solver", "watched")
    assert found.stdout.split("\n")[0] == usual.stdout.split("\n")[0] == "sat"
    assert len(programs) >= 1


def test_errors_are_one_line_and_exit_code_two(invoke: Invoke, tmp_path: Path) -> None:
    network, asked = write_network(tmp_path / "n.onnx"), write_property(tmp_path / "p", FAR)
    broken = tmp_path / "broken.vnnlib"
    broken.write_text("(declare-const X_0 Real)\n(assert (< X_0 1))")
    other = tmp_path / "other.vnnlib"
    other.write_text(
        asked.read_text().replace("Y_2", "Z_2").replace("(declare-const Z_2 Real)", "")
    )
    for words, told in (
        ((tmp_path / "no.onnx", asked), "no ONNX file"),
        ((network, tmp_path / "no.vnnlib"), "no property file"),
        ((asked, network), "no ONNX file by its name"),
        ((network, broken), "broken.vnnlib, line 2, column 10: '<'"),
        ((network, other), "2 inputs and 2 outputs, and the network has 2 and 3"),
        ((network,), "give a network and a property"),
        ((), "give a network and a property"),
        ((network, asked, "--stages", "magic"), "unknown stage 'magic'"),
        ((network, asked, "--timeout", "0"), "positive seconds"),
        ((network, asked, "--solver", "abacus"), "unknown solver 'abacus'; choose from highs"),
        ((network, asked, "--out", "x"), "--out goes with --instances"),
        (("--instances", asked), "name the file of results"),
        ((network, asked, "--instances", asked, "--out", "x"), "not both"),
        (("--instances", tmp_path / "no", "--out", tmp_path / "x"), "no list of instances"),
        (("--instances", asked, "--out", tmp_path / "x"), "line 1"),
    ):
        assert told in error_of(invoke, "verify", *words), told


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """A list of four instances; the files of one are packed, those of another are missing."""
    folder = tmp_path / "bench"
    folder.mkdir()
    write_network(folder / "a.onnx.gz")
    write_network(folder / "b.onnx", seed=1)
    write_property(folder / "far.vnnlib.gz", FAR)
    write_property(folder / "near.vnnlib", REACHED)
    path = folder / "instances.csv"
    path.write_text(
        "a.onnx,far.vnnlib,30\nb.onnx,./near.vnnlib,30\nc.onnx,far.vnnlib,30\nb.onnx,far.vnnlib\n"
    )
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_is_decided_line_by_line(invoke: Invoke, benchmark: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results.csv"
    result = invoke("verify", "--instances", benchmark, "--out", out)
    assert result.exit_code == 1  # one of them could not be begun
    rows = rows_of(out)
    assert [row["answer"] for row in rows] == ["unsat", "sat", "error", "unsat"]
    assert [row["onnx"] for row in rows] == ["a.onnx", "b.onnx", "c.onnx", "b.onnx"]
    assert rows[1]["vnnlib"] == "./near.vnnlib"
    assert "no ONNX file" in rows[2]["reason"]
    assert result.stdout.startswith("4 instances: unsat 2, sat 1, error 1; ")
    assert result.stderr.count("\n") == 4


def test_an_interrupted_list_goes_on_where_it_was(
    invoke: Invoke, benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "results.csv", list[tuple[str, str, Any]]()

    def decided(network: Path, property_file: Path, procedure: Any) -> Outcome:
        if len(asked) == 2:
            asked.clear()
            raise KeyboardInterrupt
        asked.append((network.name, property_file.name, procedure.timeout))
        return Outcome(Answer.UNKNOWN, "ibp", "stages exhausted", 1.5)

    monkeypatch.setattr(listing, "decide_files", decided)
    result = invoke("verify", "--instances", benchmark, "--out", out, "--timeout", 7)
    assert result.exit_code == 130
    assert "goes on from there" in result.stderr
    done = rows_of(out)
    assert [row["onnx"] for row in done] == ["a.onnx", "b.onnx"]
    whole = out.read_bytes()
    out.write_bytes(whole + b"c.onnx,far.vnn")  # killed in the middle of a line
    result = invoke("verify", "--instances", benchmark, "--out", out)
    assert result.exit_code == 0
    assert asked == [("c.onnx", "far.vnnlib", 30.0), ("b.onnx", "far.vnnlib", 60.0)]
    assert out.read_bytes().startswith(whole)
    assert len(rows_of(out)) == 4
    again = out.read_bytes()
    assert invoke("verify", "--instances", benchmark, "--out", out).exit_code == 0
    assert out.read_bytes() == again
    assert len(asked) == 2


def test_results_of_other_stages_are_not_taken_for_these(
    invoke: Invoke, benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decided(network: Path, property_file: Path, procedure: Any) -> Outcome:
        return Outcome(Answer.UNKNOWN, "ibp", "stages exhausted", 1.5)

    monkeypatch.setattr(listing, "decide_files", decided)
    out = tmp_path / "results.csv"
    assert invoke("verify", "--instances", benchmark, "--out", out).exit_code == 0
    held = out.read_bytes()
    result = invoke("verify", "--instances", benchmark, "--out", out, "--stages", "ibp")
    assert result.exit_code == 2
    assert "other settings (stages)" in " ".join(result.stderr.split())
    assert out.read_bytes() == held


def test_two_processes_do_not_write_the_same_results(
    invoke: Invoke, benchmark: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "results.csv"
    with alone(out):
        told = error_of(invoke, "verify", "--instances", benchmark, "--out", out)
        assert "another process is writing" in told
        assert not out.exists()
    assert invoke("verify", "--instances", benchmark, "--out", out).exit_code == 1  # one is missing
    assert len(rows_of(out)) == 4


def test_a_file_that_holds_no_results_is_not_written_to(
    invoke: Invoke, benchmark: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.csv"
    for content in ("a,b\n1,2\n", "something else\n", "onnx,vnnlib,answer\n"):
        out.write_text(content)
        assert "no file of results" in error_of(
            invoke, "verify", "--instances", benchmark, "--out", out
        )
        assert out.read_text() == content


@pytest.mark.parametrize("line", ["a.onnx", "a.onnx,b,c", "a.onnx,b,-1", "a.onnx,b,1,2", '"', ""])
def test_a_list_of_another_form_is_refused(line: str, invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{line}\n")
    assert "list.csv" in error_of(invoke, "verify", "--instances", path, "--out", tmp_path / "x")


def test_the_help_tells_the_exit_codes(invoke: Invoke) -> None:
    page = " ".join(invoke("verify", "--help").stdout.split())
    for part in ("Exit codes: 0", "1 when some line", "2 for an error", "130"):
        assert part in page
