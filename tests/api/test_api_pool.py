"""Pools of processes: every item once, whatever dies; errors, memory, ends."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_works import Failing, Looking, OddError, Squares, die

from taut.api import processes
from taut.api.pool import LOSSES, Failure, Lost, Plan
from taut.api.processes import Processes
from taut.bounds.budget import SHARE
from taut.errors import DataError, RunError


@given(count=st.integers(0, 60), size=st.integers(1, 9), workers=st.integers(1, 5), data=st.data())
def test_a_plan_gives_every_item_out_until_it_is_done_or_given_up(
    count: int, size: int, workers: int, data: st.DataObject
) -> None:
    plan, done, lost, deaths = Plan(count, size, workers), list[int](), list[int](), Counter[int]()
    while plan.waiting:
        before = plan.waiting
        places = plan.take()
        assert 1 <= len(places) <= size
        assert plan.waiting == before - len(places)
        assert len(places) == 1 or not any(deaths[place] for place in places)
        told = data.draw(st.integers(0, len(places)))
        done += places[:told]
        deaths.update(places[told:])
        lost += plan.lose(places[told:])
    assert sorted(done + lost) == list(range(count))
    assert all(deaths[place] == LOSSES for place in lost)
    assert all(deaths[place] < LOSSES for place in done)


def test_batches_shrink_so_that_all_end_together() -> None:
    plan, sizes = Plan(100, 30, 2), []
    while places := plan.take():
        sizes.append((len(places), plan.waiting + len(places)))
    assert sizes[0][0] == 25
    assert sizes[-1][0] == 1
    assert all(2 * 2 * (size - 1) < left for size, left in sizes)


def test_what_a_dead_worker_told_stays_and_the_rest_is_done_again(tmp_path: Path) -> None:
    work = Squares(tmp_path / "log", once=2, deadly=9)
    items = [*range(12)]
    with closing(Processes(1, 1).run(work, items, 4)) as found:
        results = dict(found)
    assert {place: r for place, r in results.items() if place != 9} == {
        place: place * place for place in items if place != 9
    }
    assert results[9] == Lost()
    begun = Counter(work.begun())
    assert begun[9] == LOSSES
    assert begun[2] == 2
    # what it told before it died is not done again, what came behind it had not been begun
    assert all(begun[item] == 1 for item in items if item not in (2, 9))
    assert not multiprocessing.active_children()


def test_an_error_of_a_worker_is_raised_here_as_it_was_and_ends_the_others() -> None:
    seen = []
    with (
        closing(Processes(1, 1).run(Failing("taut"), [0], 1)) as found,
        pytest.raises(DataError, match=r"^image 3 is upside down; turn it$") as caught,
    ):
        seen.extend(found)
    assert not hasattr(caught.value, "__notes__")
    assert not multiprocessing.active_children()


def test_an_error_that_cannot_travel_becomes_its_text() -> None:
    try:
        raise OddError("this", "that")
    except OddError as error:
        failure = Failure.of(error)
    with pytest.raises(RuntimeError, match="OddError: this and that") as caught:
        failure.throw()
    assert "test_api_pool.py" in caught.value.__notes__[0]  # where it was raised


def test_workers_that_never_begin_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STARTS", 1)
    with (
        closing(Processes(1, 1, die).run(Looking(tmp_path, 1), [0], 1)) as found,
        pytest.raises(RunError, match=r"before they began \(exit code -9\); use fewer --workers"),
    ):
        list(found)
    assert not multiprocessing.active_children()


def test_workers_share_memory_and_threads_do_not_hear_ctrl_c_and_end_with_the_call(
    tmp_path: Path,
) -> None:
    with closing(Processes(2, 5).run(Looking(tmp_path, 2), [*range(9)], 1)) as found:
        for each in (next(found)[1], next(found)[1]):
            assert not isinstance(each, Lost)
            assert each["share"] == pytest.approx(SHARE / 2, rel=0.3)  # the free memory moves
            assert each["given"] == 1000
            assert each["threads"] == 2
            assert each["deaf"]
            assert each["main"]
        pids = [child.pid for child in multiprocessing.active_children()]
        assert len(pids) == 2
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_items_nothing_starts(tmp_path: Path) -> None:
    assert list(Processes(3, 3).run(Looking(tmp_path, 1), [], 5)) == []
