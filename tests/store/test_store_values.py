"""Plain values and JSON: exact round trips, refusals that name the place, atomic files."""

import json
import math
import resource
import stat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import IN_MEMORY, PLAIN, TEXT, same

from taut.errors import RunError
from taut.store.atomic import is_leftover, remove_leftovers, write_atomic
from taut.store.values import canonical, freeze, from_json, json_line, parse_object, to_json


@given(st.dictionaries(TEXT, PLAIN, max_size=4))
@IN_MEMORY
def test_a_line_reads_back_exactly(value):
    line = json_line(value, "row")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert same(parse_object(line), value)


@given(st.dictionaries(TEXT, PLAIN, max_size=4))
@IN_MEMORY
def test_every_text_is_strict_json(value):
    def refuse(name):
        raise AssertionError(name)

    json.loads(canonical(value, "row"), parse_constant=refuse)
    assert canonical(value, "row") == canonical(dict(reversed(value.items())), "row")


def test_numpy_scalars_and_tuples_become_plain():
    value = {"a": np.float32(0.5), "b": np.int64(3), "c": (1, np.float64("inf"))}
    assert same(from_json(to_json(value, "row")), {"a": 0.5, "b": 3, "c": [1, math.inf]})


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": {"b": torch.zeros(1)}}, "row.a.b"),
        ({"a": [1, object()]}, r"row.a\[1\]"),
        ({"a": {1: 2}}, "key 1"),
        ({"a": "NaN"}, "row.a"),
        ({"a": b"x"}, "row.a"),
        ({"a": {1, 2}}, "row.a"),
    ],
)
def test_what_json_cannot_carry_is_refused_by_name(value, place):
    with pytest.raises(RunError, match=place):
        to_json(value, "row")


@pytest.mark.parametrize("text", [b"[1]", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff", b"1"])
def test_what_is_no_json_object_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the reader above adds the words
        parse_object(text)


def test_frozen_values_cannot_be_changed_at_any_depth():
    source = {"a": {"b": [1, {"c": 2}]}}
    frozen = freeze(source)
    with pytest.raises(TypeError):
        frozen["a"]["b"][1]["c"] = 3
    with pytest.raises(TypeError):
        frozen["a"]["new"] = 3
    source["a"]["b"][1]["c"] = 5
    assert frozen["a"]["b"] == (1, {"c": 2})


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, b"one")
    write_atomic(target, memoryview(b"two"))
    assert target.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_a_full_disk_is_an_error_that_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RunError, match="free disk space"):
            write_atomic(target, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        write_atomic(tmp_path / "none" / "file", b"")


def test_only_our_own_leftovers_are_removed(tmp_path):
    ours, theirs = (
        ".model.safetensors.0123abcd.tmp",
        [".hidden.tmp", "a.0123abcd.tmp", ".0123abcd.tmp"],
    )
    for name in (ours, *theirs):
        (tmp_path / name).touch()
    assert [is_leftover(name) for name in (ours, *theirs)] == [True, False, False, False]
    remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(theirs)
