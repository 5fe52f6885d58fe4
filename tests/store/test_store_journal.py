"""The verdict journal: exact round trips, idempotent rows, resumable, checked on opening."""

import dataclasses
import math
import os
import resource
import sqlite3
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import ON_DISK, same

from taut.errors import RunError
from taut.store import Journal
from taut.verify.verdict import Status, Verdict

META = {
    "weights": "0" * 64,
    "data": "mnist-5k",
    "split": "test",
    "eps": 0.1,
    "cascade": {"stages": ["clean", "ibp"], "attack": {"steps": 10, "alpha": 0.3}},
    "seed": 0,
}


def verified(index, margin=0.5):
    return Verdict(index, 3, 3, Status.VERIFIED, "ibp", "", margin, 0.25, None)


def unknown(index, margin=-0.5, reason="stages exhausted"):
    return Verdict(index, 3, 3, Status.UNKNOWN, "crown", reason, margin, 0.25, None)


def falsified(index, counterexample):
    return Verdict(
        index, 3, 3, Status.FALSIFIED, "attack", "counterexample", -0.125, 0.25, counterexample
    )


def identical(a, b):
    fields = ("index", "label", "predicted", "status", "stage", "reason", "margin", "seconds")
    if not all(same(getattr(a, field), getattr(b, field)) for field in fields):
        return False
    x, y = a.counterexample, b.counterexample
    if x is None or y is None:
        return x is y
    return (
        x.dtype == y.dtype
        and x.shape == y.shape
        and torch.equal(x.contiguous().view(torch.int32), y.contiguous().view(torch.int32))
    )


def bits(values, shape):
    return torch.tensor(values, dtype=torch.int32).view(torch.float32).reshape(shape)


MARGINS = st.floats(allow_nan=True, allow_infinity=True)
SHAPES = st.sampled_from([(1,), (2, 3), (1, 2, 2), (0,), (1, 1, 1)])
PIXELS = SHAPES.flatmap(
    lambda shape: st.lists(
        st.integers(-(2**31), 2**31 - 1), min_size=math.prod(shape), max_size=math.prod(shape)
    ).map(lambda values: bits(values, shape))
)
INDEX = st.integers(0, 2**40)
VERDICTS = st.one_of(
    st.builds(verified, INDEX, st.floats(min_value=5e-324, allow_infinity=False)),
    st.builds(unknown, INDEX, MARGINS, st.sampled_from(["timeout", "memory", "nan", "naïve\n'"])),
    st.builds(falsified, INDEX, PIXELS),
    st.builds(
        lambda index: Verdict(
            index, 3, 4, Status.FALSIFIED, "clean", "misclassified", -1.0, 0.0, None
        ),
        INDEX,
    ),
)


@given(verdicts=st.lists(VERDICTS, max_size=6, unique_by=lambda verdict: verdict.index))
@ON_DISK
def test_verdicts_come_back_exactly_and_sorted(tmp_path_factory, verdicts):
    path = tmp_path_factory.mktemp("run") / "journal.sqlite"
    with Journal(path, META) as journal:
        for verdict in verdicts:
            journal.record(verdict)
        assert journal.done() == {verdict.index for verdict in verdicts}
    with Journal(path) as journal:
        found = journal.verdicts()
    expected = sorted(verdicts, key=lambda verdict: verdict.index)
    assert len(found) == len(expected)
    assert all(map(identical, found, expected))


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 0.1, 3.0])
def test_margins_keep_every_value(tmp_path, margin):
    with Journal(tmp_path / "j.sqlite", META) as journal:
        journal.record(unknown(1, margin))
        journal.record_progress(2, "ibp", margin)
    with Journal(tmp_path / "j.sqlite") as journal:
        assert same(journal.verdicts()[0].margin, margin)
        stage, found = journal.progress()[2]
    assert stage == "ibp"
    assert same(found, margin)


def test_recording_again_changes_nothing(tmp_path):
    with Journal(tmp_path / "j.sqlite", META) as journal:
        journal.record(unknown(4, margin=-0.25))
        journal.record(unknown(4, margin=-0.25))
        journal.record(unknown(4, margin=-0.125))
        assert [verdict.margin for verdict in journal.verdicts()] == [-0.25]


def test_a_contradiction_is_an_error_and_the_first_verdict_stands(tmp_path):
    with Journal(tmp_path / "j.sqlite", META) as journal:
        journal.record(verified(4))
        with pytest.raises(RunError, match=r"image 4 as verified.*falsified"):
            journal.record(falsified(4, torch.zeros(1)))
        assert [verdict.status for verdict in journal.verdicts()] == [Status.VERIFIED]
        journal.record(verified(5))
        assert journal.done() == {4, 5}


def test_progress_belongs_to_undecided_images(tmp_path):
    with Journal(tmp_path / "j.sqlite", META) as journal:
        for index in (1, 2, 3):
            journal.record_progress(index, "ibp", -1.0)
        journal.record_progress(2, "crown-ibp", -0.5)
        assert journal.progress() == {1: ("ibp", -1.0), 2: ("crown-ibp", -0.5), 3: ("ibp", -1.0)}
        journal.record(verified(1))
        journal.record_progress(1, "crown", 0.5)
    with Journal(tmp_path / "j.sqlite", META) as journal:
        assert journal.progress() == {2: ("crown-ibp", -0.5), 3: ("ibp", -1.0)}


def test_the_counterexample_must_be_single_precision(tmp_path):
    with Journal(tmp_path / "j.sqlite", META) as journal:
        with pytest.raises(RunError, match="float32"):
            journal.record(falsified(1, torch.zeros(2, dtype=torch.float64)))
        assert journal.done() == set()


def test_meta_comes_back_and_shows_every_bit_of_eps(tmp_path):
    with Journal(tmp_path / "j.sqlite", {**META, "first": 1000}) as journal:
        assert journal.meta == {**META, "first": 1000}
    connection = sqlite3.connect(tmp_path / "j.sqlite")
    rows = dict(connection.execute("SELECT key, value FROM meta"))
    connection.close()
    assert rows["eps"] == f'"{(0.1).hex()}"'
    assert rows["format"] == "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "1" * 64}, "weights"),
        ({"data": "mnist"}, "data 'mnist-5k', not 'mnist'"),
        ({"split": "validation"}, "split"),
        ({"eps": math.nextafter(0.1, 1)}, "eps 0.1, not 0.10000000000000002"),
        ({"cascade": {"stages": ["clean"], "attack": META["cascade"]["attack"]}}, "cascade"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"extra": 1}, r"extra \(nothing\), not 1"),
    ],
)
def test_another_certification_is_refused_by_field(tmp_path, change, words):
    path = tmp_path / "j.sqlite"
    with Journal(path, META) as journal:
        journal.record(verified(1))
    with pytest.raises(RunError, match=f"{words}.*another --out"):
        Journal(path, {**META, **change})
    with Journal(path, dict(reversed(META.items()))) as journal:
        assert journal.done() == {1}


@pytest.mark.parametrize("key", list(META))
def test_meta_must_be_complete(tmp_path, key):
    with pytest.raises(RunError, match=key):
        Journal(tmp_path / "j.sqlite", {k: v for k, v in META.items() if k != key})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", True])
def test_eps_must_be_a_radius(tmp_path, eps):
    with pytest.raises(RunError, match="eps"):
        Journal(tmp_path / "j.sqlite", {**META, "eps": eps})


def test_a_reader_needs_a_journal_and_cannot_write(tmp_path):
    path = tmp_path / "j.sqlite"
    with pytest.raises(RunError, match="no journal"):
        Journal(path)
    path.touch()
    with pytest.raises(RunError, match="no verdict yet"):
        Journal(path)
    Journal(path, META).close()
    with Journal(path) as journal:
        for write in (
            lambda: journal.record(verified(1)),
            lambda: journal.record_progress(1, "a", 0.0),
        ):
            with pytest.raises(RunError, match="open for reading"):
                write()
        assert journal.done() == set()


def test_a_newer_layout_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "j.sqlite"
    Journal(path, META).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
    connection.close()
    for meta in (None, META):
        with pytest.raises(RunError, match="upgrade taut"):
            Journal(path, meta)


@pytest.mark.parametrize("meta", [None, META])
@pytest.mark.parametrize("content", [b"text" * 200, b"SQLite format 3\0" + b"\xff" * 4096])
def test_what_is_no_database_is_refused(tmp_path, content, meta):
    path = tmp_path / "j.sqlite"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"damaged|no journal"):
        Journal(path, meta)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(RunError, match="no journal of taut"):
        Journal(path, META)


def test_a_damaged_page_is_found_on_opening(tmp_path):
    path = tmp_path / "j.sqlite"
    with Journal(path, META) as journal:
        for index in range(200):
            journal.record(falsified(index, torch.zeros(100)))
    size = path.stat().st_size
    with open(path, "rb+") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 64)
    for meta in (None, META):
        with pytest.raises(RunError, match="damaged") as caught:
            Journal(path, meta)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("counterexample", b"abc"),
        ("shape", "[3]"),
        ("shape", "x"),
        ("margin", "text"),
        ("status", "verified"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, column, value):
    path = tmp_path / "j.sqlite"
    with Journal(path, META) as journal:
        journal.record(falsified(7, torch.zeros(2)))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE verdicts SET {column} = ?", (value,))
    connection.close()
    with Journal(path) as journal, pytest.raises(RunError, match="image 7"):
        journal.verdicts()


@pytest.mark.parametrize(
    "change",
    [
        {"margin": 0.0},
        {"margin": -1e-9},
        {"margin": math.nan},
        {"margin": math.inf},
        {"predicted": 4},
        {"reason": "timeout"},
        {"counterexample": torch.zeros(1)},
        {"status": Status.FALSIFIED},
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused_both_ways(tmp_path, change):
    path = tmp_path / "j.sqlite"
    with Journal(path, META) as journal:
        with pytest.raises(RunError, match="image 7 contradicts itself"):
            journal.record(dataclasses.replace(verified(7), **change))
        assert journal.done() == set()
        journal.record(verified(7))
    stored = {"margin", "predicted", "reason", "status"} & set(change)
    connection = sqlite3.connect(path)
    with connection:
        for column in stored:
            connection.execute(f"UPDATE verdicts SET {column} = ?", (change[column],))
        if "counterexample" in change:
            connection.execute("UPDATE verdicts SET shape = '[1]', counterexample = x'00000000'")
    connection.close()
    with Journal(path) as journal, pytest.raises(RunError, match="image 7"):
        journal.verdicts()


def test_readers_and_the_writer_do_not_block_one_another(tmp_path):
    path = tmp_path / "j.sqlite"
    total, seen, stop = 300, [], threading.Event()
    journal = Journal(path, META)

    def read():
        while not stop.is_set():
            with Journal(path) as reader:
                seen.append([verdict.index for verdict in reader.verdicts()])

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(total):
        journal.record(verified(index))
    stop.set()
    thread.join()
    journal.close()
    assert len(seen) > 1
    assert all(part == list(range(len(part))) for part in seen)
    assert seen == sorted(seen, key=len)


def test_an_archived_journal_can_be_read(tmp_path, monkeypatch):
    path = tmp_path / "j.sqlite"
    with Journal(path, META) as journal:
        journal.record(verified(1))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Journal(path) as journal:
        assert journal.done() == {1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["j.sqlite"]


def test_a_path_with_odd_characters_works(tmp_path):
    folder = tmp_path / "a b?c#d%20é"
    folder.mkdir()
    with Journal(folder / "j.sqlite", META) as journal:
        journal.record(verified(1))
    with Journal(folder / "j.sqlite") as journal:
        assert journal.done() == {1}


def test_a_full_disk_is_an_error_and_loses_nothing_committed(tmp_path):
    path, recorded = tmp_path / "j.sqlite", 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, META) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(RunError, match="free disk space"):  # noqa: PT012
                for recorded in range(1000):
                    journal.record(falsified(recorded, torch.zeros(1000)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.done() == set(range(recorded))
        journal.record(verified(5000))
    assert recorded > 10
    with Journal(path, META) as journal:
        assert journal.done() == {*range(recorded), 5000}
