"""Unknown images tried again: which, what replaces what, and what the journal keeps of it."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from pool_works import decided, limited, small_job

from taut.api import results, retrying
from taut.errors import RunError
from taut.store import Journal
from taut.store.attempts import Attempts
from taut.verify import Cascade, Status, Verdict

META = {"weights": "0", "data": "d", "split": "test", "eps": 0.1, "seed": 0,
        "cascade": {"stages": ["clean", "branch"], "timeout": 5.0}}  # fmt: skip


def verdict(
    index: int, margin: float, status: str = "unknown", reason: str = "timeout", **more: float
) -> Verdict:
    reason = reason if status == "unknown" else ""
    return Verdict(
        index, 1, int(more.get("predicted", 1)), Status(status), "branch", reason, margin,
        more.get("seconds", 2.0), None, int(more.get("parts", 3)),
    )  # fmt: skip


def standing(path: Path) -> dict[int, Verdict]:
    with Journal(path) as journal:
        return {v.index: v for v in journal.verdicts()}


@pytest.mark.parametrize(
    ("first", "second", "replaced"),
    [
        (verdict(4, -0.5), verdict(4, 0.25, "verified"), True),
        (verdict(4, -0.5), verdict(4, -0.25), True),
        (verdict(4, -0.5), verdict(4, -0.5, reason="memory"), False),
        (verdict(4, -0.5), verdict(4, -0.75), False),
        (verdict(4, -0.5), verdict(4, -math.inf, reason="worker", predicted=-1), False),
        (verdict(4, -math.inf, reason="worker", predicted=-1), verdict(4, -math.inf), True),
    ],
)
def test_a_better_verdict_replaces_the_row_and_a_worse_one_never_does(
    tmp_path: Path, first: Verdict, second: Verdict, replaced: bool
) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, META) as journal:
        journal.record(first)
        assert journal.tried() == {}
        told = journal.record_attempt(replace(second, seconds=7.0), 60.0)
        expected = replace(second, seconds=7.0) if replaced else first
        assert told == expected
        assert journal.tried() == {4: Attempts(2, 9.0, 60.0)}
    assert standing(path) == {4: expected}
    with sqlite3.connect(path) as database:
        query = "SELECT number, timeout, status, margin, seconds, parts FROM attempts"
        rows = database.execute(query).fetchall()
    database.close()
    assert rows == [
        (1, 5.0, first.status.value, first.margin, 2.0, 3),
        (2, 60.0, second.status.value, second.margin, 7.0, 3),
    ]


def test_attempts_are_counted_and_what_is_decided_stands(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, META) as journal:
        journal.record(verdict(1, 0.5, "verified"))
        with pytest.raises(RunError, match="image 1 as verified"):
            journal.record_attempt(verdict(1, -0.5), 60.0)
        assert journal.tried() == {}  # and nothing of that is left behind
        journal.record(verdict(2, -3.0))
        for limit in (10.0, None, 20.0):
            journal.record_attempt(verdict(2, -3.0), limit)
        assert journal.tried() == {2: Attempts(4, 8.0, math.inf)}
        journal.record_attempt(verdict(3, -1.0), 20.0)  # the first attempt of an image
        assert journal.tried()[3] == Attempts(1, 2.0, 20.0)


def test_journals_of_an_earlier_version_are_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, META) as journal:
        journal.record(verdict(1, -0.5))
    database = sqlite3.connect(path)
    database.execute("DROP TABLE attempts")
    database.execute("ALTER TABLE verdicts DROP COLUMN parts")
    database.commit()
    database.close()
    assert standing(path) == {1: verdict(1, -0.5, parts=0)}
    with Journal(path) as journal:
        assert journal.tried() == {}
    with Journal(path, META) as journal:
        journal.record(verdict(2, -0.5, parts=8))
        journal.record_attempt(verdict(1, 0.5, "verified", parts=9), 60.0)
    assert {index: v.parts for index, v in standing(path).items()} == {1: 9, 2: 8}


def test_which_images_are_tried_again() -> None:
    known = {
        0: verdict(0, 0.5, "verified"),
        1: verdict(1, -0.5),
        2: verdict(2, -0.5),
        3: verdict(3, -0.5, reason="memory"),
        4: verdict(4, -math.inf, reason="worker"),
        5: verdict(5, -0.5, reason="stages exhausted"),
    }
    tried = {2: Attempts(2, 9.0, 60.0), 5: Attempts(2, 9.0, math.inf)}
    for timeout, expected in (
        (5.0, [3, 4]),
        (60.0, [1, 3, 4]),
        (61.0, [1, 2, 3, 4]),
        (None, [1, 2, 3, 4]),
    ):
        assert retrying.again(known, tried, 5.0, timeout) == expected
    assert retrying.again(known, {}, math.inf, None) == [3, 4]


BRANCHING = Cascade(stages=("clean", "ibp", "branch"), batch_size=6)


@pytest.fixture
def hurried(tmp_path: Path) -> Path:
    """The folder of a certification in which no image had the time for more than `clean`."""
    results.run(limited(small_job(12, BRANCHING), 1e-9), tmp_path / "a")
    found = standing(tmp_path / "a" / "journal.sqlite")
    assert {v.reason for v in found.values()} == {"misclassified", "timeout"}
    return tmp_path / "a"


def test_more_time_decides_what_was_unknown_and_nothing_else_is_touched(
    hurried: Path, tmp_path: Path
) -> None:
    before = standing(hurried / "journal.sqlite")
    job = small_job(12, BRANCHING)
    heard: list[int] = []
    figures = results.run(
        limited(job, 600.0), hurried, retry=True, on_verdict=lambda v: heard.append(v.index)
    )
    open_ = [index for index, v in before.items() if v.status == Status.UNKNOWN]
    assert sorted(heard) == open_
    after = standing(hurried / "journal.sqlite")
    for index, v in before.items():
        assert index in open_ or after[index] == v
    results.run(limited(job, 600.0), tmp_path / "whole")
    whole = standing(tmp_path / "whole" / "journal.sqlite")
    assert [decided(after[i]) for i in range(12)] == [decided(whole[i]) for i in range(12)]
    assert figures["unknown"] == {}
    assert figures["retried"]["images"] == len(open_)
    assert figures["retried"]["attempts"] == 2 * len(open_)
    spent = sum(before[i].seconds + after[i].seconds for i in open_)
    assert figures["retried"]["seconds"] == pytest.approx(spent)
    # the folder is what it was: the first command goes on with it
    again = results.run(limited(job, 1e-9), hurried)
    assert again["certified_accuracy"] == figures["certified_accuracy"]


def test_what_had_as_much_time_is_not_repeated_and_a_killed_retry_goes_on(hurried: Path) -> None:
    job = small_job(12, BRANCHING)
    heard: list[int] = []

    def stopping(v: Verdict) -> None:
        heard.append(v.index)
        if len(heard) == 3:
            raise KeyboardInterrupt

    def hearing(v: Verdict) -> None:
        heard.append(v.index)

    with pytest.raises(KeyboardInterrupt):
        results.run(limited(job, 2e-9), hurried, retry=True, on_verdict=stopping)
    results.run(limited(job, 2e-9), hurried, retry=True, on_verdict=hearing)
    before = standing(hurried / "journal.sqlite")
    open_ = [index for index, v in before.items() if v.status == Status.UNKNOWN]
    assert sorted(heard) == open_  # each once, over both calls
    for limit in (2e-9, 1e-9):
        results.run(limited(job, limit), hurried, retry=True, on_verdict=hearing)
    assert len(heard) == len(open_)


def test_only_the_time_may_differ(hurried: Path, tmp_path: Path) -> None:
    job = limited(small_job(12, BRANCHING), 600.0)
    with pytest.raises(RunError, match=r"cascade\.timeout.* with --retry unknown, choose another"):
        results.run(job, hurried)
    for other in (
        replace(job, eps=0.04),
        replace(job, cascade=replace(job.cascade, stages=("clean", "branch"))),
        replace(job, cascade=replace(job.cascade, seed=5)),
    ):
        with pytest.raises(RunError, match="holds results of other settings") as caught:
            results.run(other, hurried, retry=True)
        assert "--retry" not in str(caught.value)
    with pytest.raises(RunError, match=r"nothing to try again in .*/none; certify without --retry"):
        results.run(job, tmp_path / "none", retry=True)
    assert not (tmp_path / "none").exists()
