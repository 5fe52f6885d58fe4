from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import idx, outcome

from taut.data.idx import parse_idx
from taut.errors import DataError

HERE = Path("here.idx")
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_values_come_back_in_place():
    assert np.array_equal(parse_idx(bytearray(idx(IMAGES)), HERE, 3), IMAGES)
    assert np.array_equal(parse_idx(bytearray(idx([3, 1, 2])), HERE, 1), [3, 1, 2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("truncated", "16 bytes", "found 0")),
        (idx(IMAGES)[:-1], ("2 x 3 x 4", "expected 40 bytes", "found 39")),
        (idx(IMAGES) + b"x", ("expected 40 bytes", "found 41")),
        (idx([1] * 20), ("3 dimension", "00000803", "00000801")),
        (b"\x00\x00\x0d" + idx(IMAGES)[3:], ("00000803", "00000d03")),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, ("4294967295", "found 16")),
    ],
)
def test_a_wrong_file_is_named_with_what_was_expected_and_found(content, words):
    with pytest.raises(DataError) as caught:
        parse_idx(bytearray(content), HERE, 3)
    assert all(word in str(caught.value) for word in ("here.idx", *words))


@settings(deadline=None)
@given(
    st.binary(max_size=60) | st.binary(max_size=20).map(lambda tail: idx(IMAGES)[:16] + tail),
    st.sampled_from([1, 3]),
)
def test_any_bytes_give_a_fitting_array_or_a_data_error(content, dims):
    result = outcome(parse_idx, bytearray(content), HERE, dims)
    if isinstance(result, DataError):
        assert "here.idx" in str(result)
    else:
        assert result.ndim == dims
        assert idx(result) == content


@settings(deadline=None)
@given(st.data())
def test_mutated_files_give_the_mutated_bytes_or_a_data_error(data):
    content = bytearray(idx(IMAGES))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    result = outcome(parse_idx, content, HERE, 3)
    if isinstance(result, DataError):
        assert content[:16] != idx(IMAGES)[:16]
    else:
        assert idx(result) == bytes(content)
