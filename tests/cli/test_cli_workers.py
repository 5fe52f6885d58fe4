"""`--workers`, `--ray` and `--retry` of `taut certify` and `taut verify`."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Invoke, environment
from test_cli_certify import NAME, WORKER, decided, verdicts
from test_cli_verify import benchmark, rows_of

from taut.api import answers
from taut.api import instances as listing
from taut.api.pool import Lost
from taut.verify.outcome import Answer, Outcome

__all__ = ["benchmark"]  # a fixture of the other file

MARK = "TAUT_TEST_MARK"
HARD = ("--eps", "0.12", "--stages", "crown,branch")


def alive(mark: str) -> list[int]:
    """The processes that were started with a mark in their environment, zombies left out."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
            if ours and "\nState:\tZ" not in (place / "status").read_text():
                found.append(int(place.name))
    return found


def wait_until_gone(mark: str) -> None:
    deadline = time.monotonic() + 60
    while alive(mark):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def committed(path: Path) -> int:
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            (count,) = database.execute("SELECT COUNT(*) FROM verdicts").fetchone()
        except sqlite3.OperationalError:  # not made yet
            return 0
        return int(count)


def test_a_killed_parent_leaves_its_verdicts_and_no_workers(
    invoke: Invoke, run: Path, tmp_path: Path
) -> None:
    words = ["certify", str(run), "--first", "20", "--batch-size", "4"]
    alone = invoke(*words, "--out", tmp_path / "alone", "--json")
    mark = str(tmp_path)
    killed = subprocess.run(
        [sys.executable, str(WORKER), "verdict", "5", *words, "--workers", "2", "--threads", "2"],
        env={**environment(), MARK: mark}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_until_gone(mark)
    kept = verdicts(run / NAME)
    assert len(kept) == 4
    result = invoke(*words, "--json")
    resumed = verdicts(run / NAME)
    assert [v for v in resumed if v.index in {k.index for k in kept}] == kept
    assert [decided(v) for v in resumed] == [decided(v) for v in verdicts(tmp_path / "alone")]
    found, expected = json.loads(result.stdout), json.loads(alone.stdout)
    for key in ("natural_accuracy", "attacked_accuracy", "certified_accuracy", "verdicts", "parts"):
        assert found[key] == expected[key]


def hear_interrupts() -> None:
    """Undo what a shell does to a job in the background, which ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    mark, journal = str(tmp_path), run / "certify-mnist-5k-test-eps0.12" / "journal.sqlite"
    command = subprocess.Popen(
        [sys.executable, "-m", "taut.cli", "certify", str(run), *HARD, "--workers", "2"],
        env={**environment(), MARK: mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, preexec_fn=hear_interrupts,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while committed(journal) < 2:
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, errors = command.communicate(timeout=60)
    finally:
        command.kill()
        command.communicate()
    assert command.returncode == 130, errors
    assert out == ""
    assert "the same command goes on from there" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    wait_until_gone(mark)
    assert committed(journal) >= 2


def test_a_retry_gives_more_time_and_shows_what_it_came_to(invoke: Invoke, run: Path) -> None:
    words = ("certify", run, "--first", 8, "--eps", 0.06, "--stages", "ibp,branch")
    first = json.loads(invoke(*words, "--timeout", "1e-9", "--json").stdout)
    left = first["unknown"]["timeout"]
    assert first["parts"] == {"total": 0, "largest": 0}
    refused = invoke(*words, "--timeout", 600)
    assert refused.exit_code == 2
    assert "with --retry unknown" in refused.stderr
    result = invoke(*words, "--timeout", 600, "--retry", "unknown", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["unknown"] == {}
    assert figures["retried"]["images"] == left > 0
    assert figures["parts"]["total"] == sum(v.parts for v in verdicts(run / NAME)) > 0
    text = invoke(*words, "--timeout", 600, "--retry", "unknown").stdout
    assert f"{left} images, {2 * left} attempts" in text
    assert f"{figures['parts']['total']:,}, at most {figures['parts']['largest']:,}" in text
    assert json.loads((run / "summary.json").read_text())["retried"] == figures["retried"]


def test_instances_by_two_processes(invoke: Invoke, benchmark: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    for out, words in ((alone, ()), (shared, ("--workers", 2))):
        result = invoke("verify", "--instances", benchmark, "--out", out, *words)
        assert result.exit_code == 1  # the files of one are missing
        assert result.stdout.startswith("4 instances: unsat 2, sat 1, error 1; ")
        assert result.stderr.count("\n") == 4

    def told(path: Path) -> list[dict[str, str]]:
        rows = sorted(rows_of(path), key=lambda row: (row["onnx"], row["vnnlib"]))
        return [{key: row[key] for key in row if key != "seconds"} for row in rows]

    assert told(shared) == told(alone)


class Here:
    """A pool in this process that loses the second item."""

    streams = True

    def run(self, work: Any, items: Any, size: int) -> Any:
        assert size == 1
        for place in reversed(range(len(items))):
            if place == 1:
                yield place, Lost()
                continue
            told: list[Any] = []
            work.begin()([items[place]], lambda at, row, told=told: told.append(row))
            yield place, told[0]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, float | None]]]:
    """Stands in for the verifier: it decides what has more than 100 seconds."""
    asked: dict[str, list[tuple[str, float | None]]] = {"calls": []}

    def decide(network: Path, property_file: Path, procedure: Any) -> Outcome:
        asked["calls"].append((network.name, procedure.timeout))
        enough = procedure.timeout is None or procedure.timeout > 100
        if network.name == "a.onnx" or enough:
            return Outcome(Answer.UNSAT, "ibp", "", 0.5)
        return Outcome(Answer.TIMEOUT, "branch", "timeout", procedure.timeout)

    monkeypatch.setattr(listing, "decide_files", decide)
    return asked


def test_lines_left_open_are_tried_again_and_replaced_when_decided(
    invoke: Invoke, benchmark: Path, tmp_path: Path, times: dict[str, Any]
) -> None:
    out = tmp_path / "out.csv"
    words = ("verify", "--instances", benchmark, "--out", out)
    assert invoke(*words).exit_code == 0
    answers_of = {(row["onnx"], row["vnnlib"]): row["answer"] for row in rows_of(out)}
    assert sorted(answers_of.values()) == ["timeout", "timeout", "timeout", "unsat"]
    held = out.read_bytes()
    times["calls"].clear()
    assert invoke(*words, "--retry", "unknown", "--timeout", 90).exit_code == 0
    assert times["calls"] == [("b.onnx", 90.0), ("c.onnx", 90.0), ("b.onnx", 90.0)]
    assert out.read_bytes() == held  # no better, so it stands
    times["calls"].clear()
    assert invoke(*words, "--retry", "unknown", "--timeout", 90).exit_code == 0
    assert times["calls"] == []  # they had as much time
    result = invoke(*words, "--retry", "unknown", "--timeout", 200)
    assert "4 instances: unsat 4; " in result.stdout
    assert times["calls"] == [("b.onnx", 200.0), ("c.onnx", 200.0), ("b.onnx", 200.0)]
    assert [row["answer"] for row in rows_of(out)] == ["unsat"] * 4
    with out.with_name("out.csv.attempts.csv").open(newline="") as file:
        history = [(row[0], row[2], float(row[-1])) for row in csv.reader(file)]
    assert history == [
        *[(name, "timeout", 90.0) for name in ("b.onnx", "c.onnx", "b.onnx")],
        *[(name, "unsat", 200.0) for name in ("b.onnx", "c.onnx", "b.onnx")],
    ]
    assert invoke(*words).exit_code == 0
    assert len(times["calls"]) == 3


def test_an_instance_that_no_worker_survives_is_unknown_and_tried_again(
    benchmark: Path, tmp_path: Path, times: dict[str, Any]
) -> None:
    procedure = listing.Procedure(timeout=200)
    rows = listing.run_instances(
        benchmark, tmp_path / "out.csv", procedure, timeout=200, pool=Here()
    )
    assert [row.answer for row in rows] == ["unsat", "unknown", "unsat", "unsat"]
    assert rows[1].reason == "worker"
    for _ in range(2):
        again = listing.run_instances(
            benchmark, tmp_path / "out.csv", procedure, timeout=200, retry=True
        )
        assert [row.answer for row in again] == ["unsat"] * 4
    assert len(times["calls"]) == 4


def test_an_error_that_was_mended_gives_way_to_any_answer() -> None:
    error, left = (
        answers.Row("n", "p", answer, 0.0, "", "") for answer in (answers.ERROR, "timeout")
    )
    assert answers.better(left, error)
    assert not answers.better(error, left)
    assert not answers.better(left, left)


def test_what_makes_no_sense_is_one_line(
    invoke: Invoke, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    lines = tmp_path / "list.csv"
    lines.write_text("a.onnx,b.vnnlib\n")
    many = ("--instances", lines, "--out", tmp_path / "x.csv")
    for words, message in (
        (("certify", run, "--retry", "failed"), "--retry takes the word unknown"),
        (("certify", run, "--retry", "unknown", "--overwrite"), "give one"),
        (("certify", run, "--retry", "unknown"), "certify without --retry first"),
        (("certify", run, "--ray", "auto"), "pip install 'taut[ray]'"),
        (("certify", run, "--ray", "nowhere"), "auto, host:port or ray://host:port"),
        (("certify", run, "--workers", "0"), "--workers"),
        (("verify", *many, "--ray", "auto"), "pip install 'taut[ray]'"),
        (("verify", *many, "--retry", "all"), "--retry takes the word unknown"),
        (("verify", "a.onnx", "b.vnnlib", "--workers", "2"), "go with --instances"),
        (("verify", "a.onnx", "b.vnnlib", "--retry", "unknown"), "go with --instances"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2, words
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "x.csv").exists()
