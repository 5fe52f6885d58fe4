"""Progress: a display on a terminal, plain lines elsewhere, nothing for short work."""

from __future__ import annotations

import io
import math
import time

import pytest
from rich.console import Console

from taut.cli.certify_display import CertifyDisplay
from taut.cli.display import Display, Pace, duration, percent, radius
from taut.cli.train_display import TrainingDisplay
from taut.training import EpsRamp, Settings, StepInfo


def screen(*, terminal: bool, width: int = 100) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None,
        _environ={"TERM": "xterm"},
    )  # fmt: skip


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wait_for(console: Console, text: str) -> None:
    limit = time.monotonic() + 10
    while text not in written(console):
        assert time.monotonic() < limit, written(console)
        time.sleep(0.01)


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_is_silent(terminal: bool) -> None:
    console = screen(terminal=terminal)
    with Display(console, lambda: "status", lambda: "line", every=0.01, delay=30) as display:
        display.log("an epoch")
    assert written(console) == ""


def test_plain_lines_come_again_and_again() -> None:
    console, count = screen(terminal=False), iter(range(10**6))
    with Display(
        console, lambda: "", lambda: f"tick {next(count)}", every=0.01, delay=0
    ) as display:
        wait_for(console, "tick 2")
        display.log("stays")
    lines = written(console).splitlines()
    assert lines[:3] == ["tick 0", "tick 1", "tick 2"]
    assert lines.count("stays") == 1
    before = written(console)
    time.sleep(0.05)
    assert written(console) == before


def test_what_was_held_back_comes_first() -> None:
    console = screen(terminal=False)
    with Display(console, lambda: "", lambda: "now", every=60, delay=0.1) as display:
        display.log("epoch 1")
        display.log("epoch 2")
        wait_for(console, "now")
    assert written(console).splitlines() == ["epoch 1", "epoch 2", "now"]


def test_a_terminal_shows_the_status_and_wipes_it() -> None:
    console = screen(terminal=True)
    with Display(console, lambda: "status", lambda: "line", every=60, delay=0) as display:
        wait_for(console, "status")
        display.log("stays")
    text = written(console)
    assert "line" not in text
    assert "stays" in text
    assert text.rstrip().endswith("\x1b[2K") or text.endswith("\x1b[1A\x1b[2K")


def test_the_display_ends_when_the_work_fails() -> None:
    console = screen(terminal=True)
    display = Display(console, lambda: "status", lambda: "", every=60, delay=0)

    def work() -> None:
        with display:
            wait_for(console, "status")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert not display._thread.is_alive()


def test_a_terminal_that_cannot_move_its_cursor_gets_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with Display(console, lambda: "status", lambda: "line", every=60, delay=0):
        wait_for(console, "line")
    assert written(console) == "line\n"


def test_pace_looks_at_the_latest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("taut.cli.display.time.perf_counter", lambda: now[0])
    pace = Pace(100, done=10, window=3)
    assert pace.rate == 0
    assert pace.left == math.inf
    for seconds, done in ((10.0, 20), (11.0, 30), (12.0, 40)):
        now[0] = seconds
        pace.note(done)
    assert pace.rate == 10  # the first, slow ten are forgotten
    assert pace.left == 6


def test_an_epoch_is_one_line() -> None:
    console = screen(terminal=False, width=120)
    settings = Settings(epochs=3, eps=0.1, schedule=EpsRamp(), device="cpu")
    display = TrainingDisplay(console, settings)
    display._display._delay, display._display._every = 0, 0.01
    row = {
        "epoch": 1, "eps": 0.05, "loss": {"total": 1.5, "natural": 1.0, "robust": 2.0},
        "seconds": 61.0, "validation": {"natural_accuracy": 0.9, "certified_accuracy": 0.5,
                                        "attacked_accuracy": 0.625, "unstable_share": 0.031,
                                        "eps": 0.1},
    }  # fmt: skip
    with display:
        display.step_done(StepInfo(1, 3, 1, 10, 0.01, 1e-3, {"total": 3.0}))
        display.step_done(StepInfo(1, 3, 2, 10, 0.02, 1e-3, {"total": 2.5}))
        wait_for(console, "step 2/10")
        display.epoch_done(row)
        display.epoch_done({**row, "epoch": 2, "loss": {"total": 1.0, "natural": 1.0}})
        last = {**row, "epoch": 3, "loss": {"total": 1.0, "natural": 1.0}, "validation": {}}
        display.epoch_done(last)
    lines = written(console).splitlines()
    assert any("epoch 1/3, step 2/10, eps 0.0200, loss 2.5000" in line for line in lines)
    head = lines.index(next(line for line in lines if line.split()[:2] == ["epoch", "eps"]))
    assert "eps 0.1 (25.5/255)" in lines[head - 1]
    cells = " ".join(lines[head + 1].split())
    assert cells == "1/3 0.0500 1.5000 1.0000 2.0000 90.0 % 62.5 % 50.0 % 3.1 % 1 min 1 s"
    assert len(lines[head]) == len(lines[head + 1])
    assert "robust" not in lines[head + 2]  # other parts, so the heading comes again
    assert len(lines[head + 2]) == len(lines[head + 3]) == len(lines[head + 4])
    assert lines[head + 4].split() == ["3/3", "0.0500", "1.0000", "1.0000", *"----", "1", "min",
                                       "1", "s"]  # fmt: skip
    assert display._status() is not None


def test_an_epoch_fits_80_columns_and_the_width_shows_parts() -> None:
    held = {"natural_accuracy": 1.0, "attacked_accuracy": 1.0, "certified_accuracy": 1.0,
            "unstable_share": 1.0, "eps": 0.1}  # fmt: skip
    parts = {"total": 12.5, "balance": 1.0, "l1": 1.0, "natural": 1.0, "robust": 1.0}
    row = {"epoch": 3200, "eps": 0.05, "loss": parts, "seconds": 3599.0, "validation": held}
    for width, shown in ((80, []), (100, ["balance"]), (200, ["balance", "l1", "natural"])):
        console = screen(terminal=True, width=width)
        display = TrainingDisplay(console, Settings(epochs=3200, eps=0.1, device="cpu"))
        display._display._visible = True
        display.epoch_done(row)
        display.step_done(StepInfo(3200, 3200, 999, 999, 0.05, 1e-3, parts))
        console.print(display._status())
        lines = written(console).splitlines()
        assert max(len(line.rstrip()) for line in lines[1:]) <= width
        assert all(f"{part} loss" in lines[1] for part in shown)
        assert ("robust loss" in lines[1]) == (width == 200)
        assert ("robust 1.000" in lines[-1]) == (width == 200)


def test_certification_shows_counts_speed_and_time_left() -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from taut.verify import Cascade, Status, Verdict

    def verdict(index: int, status: Status, stage: str) -> Verdict:
        return Verdict(index, 0, 0, status, stage, "", 1.0, 0.1, None)

    job = SimpleNamespace(images=range(10), cascade=Cascade())
    console = screen(terminal=False)
    display = CertifyDisplay(console, cast("Any", job))
    display.start([verdict(0, Status.VERIFIED, "ibp")])
    display.stage("attack", 9)
    time.sleep(0.01)
    display.settled(verdict(1, Status.FALSIFIED, "attack"))
    line = display._line()
    assert line.startswith("2/10 images: 1 verified, 1 falsified, 0 unknown; ")
    assert "images/s" in line
    assert "left; now attack on 9 images" in line
    plain = screen(terminal=False)
    plain.print(display._status())
    assert "2/10 images" in written(plain)
    assert "ibp 1, crown-ibp 0, attack 1" in written(plain)


def test_numbers_as_people_write_them() -> None:
    assert [duration(s) for s in (0.04, 9.94, 9.96, 59.6, 61, 3700, math.inf)] == [
        "0.0 s", "9.9 s", "10 s", "1 min 0 s", "1 min 1 s", "1 h 1 min", "?",
    ]  # fmt: skip
    assert percent(0.876) == "87.6 %"
    assert percent(None) == "-"
    assert radius(8 / 255) == "0.03137 (8/255)"
    assert radius(0.1) == "0.1 (25.5/255)"
    assert radius(0.05) == "0.05"
