"""``metrics.jsonl`` and TensorBoard's events: torn lines, rewinding, no point twice."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import ON_DISK, PLAIN, TEXT, same, shown

from taut.errors import RunError
from taut.store.events import EventLog
from taut.store.metrics import append_row, read_rows, rewind_rows, scalars

ROWS = st.lists(
    st.dictionaries(TEXT.filter(lambda key: key != "epoch"), PLAIN, max_size=3), max_size=4
)


@given(rows=ROWS)
@ON_DISK
def test_rows_read_back_exactly(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    written = [{"epoch": i, **row} for i, row in enumerate(rows, start=1)]
    for row in written:
        append_row(path, row)
    assert same(read_rows(path), written)


@given(cut=st.integers(min_value=0), kept=st.integers(0, 3))
@ON_DISK
def test_a_cut_at_any_byte_loses_at_most_the_lines_it_touches(tmp_path_factory, cut, kept):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    rows = [{"epoch": i, "loss": {"total": 1.0 / i}} for i in (1, 2, 3)]
    ends = [0]
    for row in rows:
        append_row(path, row)
        ends.append(path.stat().st_size)
    cut %= ends[-1] + 1
    with open(path, "rb+") as file:
        file.truncate(cut)
    whole = sum(end <= cut for end in ends[1:])
    assert read_rows(path) == rows[:whole]
    rewind_rows(path, kept)
    assert read_rows(path) == rows[: min(whole, kept)]
    assert path.stat().st_size == ends[min(whole, kept)]


def test_the_next_row_replaces_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"epoch": 1})
    with open(path, "ab") as file:
        file.write(b'{"epoch": 2, "lo')
    append_row(path, {"epoch": 2, "a": 1})
    assert read_rows(path) == [{"epoch": 1}, {"epoch": 2, "a": 1}]


def test_rewinding_reports_what_went(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert rewind_rows(path, 0) == 0
    for epoch in (1, 2, 3):
        append_row(path, {"epoch": epoch})
    assert rewind_rows(path, 1) == 2
    assert rewind_rows(path, 1) == 0
    assert read_rows(path) == [{"epoch": 1}]


@pytest.mark.parametrize("epoch", [None, 0, -1, 1.0, True, "1"])
def test_a_row_needs_its_epoch(tmp_path, epoch):
    with pytest.raises(RunError, match="epoch"):
        append_row(tmp_path / "metrics.jsonl", {"epoch": epoch})
    assert read_rows(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_is_written_once(tmp_path, epoch):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"epoch": 2})
    with pytest.raises(RunError, match="rewind"):
        append_row(path, {"epoch": epoch})
    assert read_rows(path) == [{"epoch": 2}]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"loss": 1}', b"\xff\xfe", b'{"epoch": 0}', b'{"epoch": 1}', b""]
)
def test_damage_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + line + b'\n{"epoch": 3}\n')
    for use in (
        read_rows,
        lambda path: rewind_rows(path, 1),
        lambda path: append_row(path, {"epoch": 4}),
    ):
        with pytest.raises(RunError, match="line 2"):
            use(path)


def test_a_reader_sees_whole_rows_while_a_writer_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            seen.append(read_rows(path))

    reader = threading.Thread(target=read)
    reader.start()
    rows = [{"epoch": i, "text": "x" * 20_000} for i in range(1, 41)]
    for row in rows:
        append_row(path, row)
    stop.set()
    reader.join()
    assert len(seen) > 1
    assert all(part == rows[: len(part)] for part in seen)


def test_scalars_are_the_numbers_by_their_path():
    row = {
        "epoch": 3,
        "eps": 0.1,
        "loss": {"total": 1, "parts": {"natural": math.inf}},
        "flag": True,
        "name": "x",
        "list": [1.0],
        "none": None,
        "train": {"epoch": 7},
    }
    assert scalars(row) == {
        "eps": 0.1,
        "loss/total": 1.0,
        "loss/parts/natural": math.inf,
        "train/epoch": 7.0,
    }


def test_events_show_each_point_once_after_a_resume(tmp_path):
    with EventLog(tmp_path, 1) as log:
        for step in (1, 2, 3, 4):
            log.add(step, {"a": step, "b/c": -step})
    first = next(tmp_path.glob("events.*"))
    with open(first, "rb+") as file:  # killed while it wrote the last record
        file.truncate(first.stat().st_size - 5)
    with EventLog(tmp_path, 3) as log:
        log.add(3, {"a": 30})
    with EventLog(tmp_path, 4) as log:
        log.add(4, {"a": 40})
    assert shown(tmp_path) == {"a": {1: 1, 2: 2, 3: 30, 4: 40}, "b/c": {1: -1, 2: -2}}
    assert len(list(tmp_path.glob("events.*"))) == 3


def test_events_are_on_the_disk_at_once_and_keep_what_single_precision_can(tmp_path):
    with EventLog(tmp_path, 1) as log:
        log.add(1, {"nan": math.nan, "inf": -math.inf, "huge": 1e300, "tiny": 1e-300})
        found = shown(tmp_path)
    assert math.isnan(found.pop("nan")[1])
    assert found == {"inf": {1: -math.inf}, "huge": {1: math.inf}, "tiny": {1: 0.0}}
