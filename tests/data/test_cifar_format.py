import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import binary, outcome, pickled, short

from taut.data.cifar import parse_binary, parse_python
from taut.errors import DataError

HERE = Path("batch")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
LABELS = [7, 0, 9]


def same(batch):
    return np.array_equal(batch[0], PIXELS) and batch[1].tolist() == LABELS


def test_both_layouts_give_the_same_arrays():
    assert same(parse_python(bytearray(pickled(PIXELS, LABELS)), HERE))
    assert same(parse_binary(bytearray(binary(PIXELS, LABELS)), HERE))


def test_the_test_pickle_is_what_python_itself_reads():
    # Otherwise the reader could agree with a writer that nobody else agrees with.
    content = pickled(PIXELS, LABELS).replace(b"numpy.core.", b"numpy._core.")
    batch = pickle.loads(content, encoding="bytes")
    assert np.array_equal(batch[b"data"], PIXELS)
    assert batch[b"labels"] == LABELS


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol):
    planted = tmp_path / "planted"
    content = pickle.dumps({b"data": Malicious(planted), b"labels": []}, protocol=protocol)
    with pytest.raises(DataError, match="batch"):
        parse_python(bytearray(content), HERE)
    assert not planted.exists()
    pickle.loads(content)[b"data"].close()
    assert planted.exists()  # the standard unpickler does run it: the test is not vacuous


def test_a_call_inside_an_otherwise_true_batch_is_refused_by_name():
    content = pickled(PIXELS, LABELS, names=(b"os", b"system"))
    with pytest.raises(DataError, match=r"'system' of 'os'.*nothing of it was run"):
        parse_python(bytearray(content), HERE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated: expected 1 bytes at byte 0, found 0"),
        (pickled(PIXELS, LABELS)[:-9000], "truncated"),
        (pickled(PIXELS, [1, 2]), "3 images but 2 labels"),
        (pickled(PIXELS, [1, 2, 10]), "labels are not numbers from 0 to 9"),
        (pickled(PIXELS[:, :100], LABELS), "N x 3072"),
        (pickled(PIXELS, LABELS, width=3071), "N x 3072"),
        (pickled(PIXELS[:0], []), "N x 3072"),
        (pickled(PIXELS, LABELS).replace(b"U\x02u1", b"U\x02O8"), "N x 3072"),
        (b"\x80\x02}.", "no data and labels"),
        (b"\x80\x02K\x01.", "no data and labels"),
        (b"\x80\x05}.", "protocol other than 2"),
        (b"\x80\x02(.", "unfinished"),
        (b"\x80\x02.", "unfinished"),
        (b"\x80\x02(}(t.", "unfinished"),
        (b"\x80\x02\x85.", "without a value"),
        (b"\x80\x02}(t\x86.", "dictionary|without a value|unfinished|no data"),
        (b"\x80\x02t.", "without a start"),
        (b"\x80\x02}(K\x01u.", "no dictionary"),
        (b"\x80\x02}(K\x01K\x02u.", "key that is no text"),
        (b"\x80\x02}(K\x01e.", "no list"),
        (b"\x80\x02K\x01(tR.", "no function"),
        (b"\x80\x02K\x01K\x02b.", "state for something"),
        (b"\x80\x02cnumpy\n" + b"x" * 200, "without an end"),
        (b"\x80\x02T" + struct.pack("<i", -5), "truncated"),
        (b"\x80\x02T" + struct.pack("<i", 2**31 - 1), "truncated"),
        (b"\x80\x02" + short(b"x") + b"0.", "opcode b'0'"),
        (b"\x80\x02q\x00h\x00.", "opcode b'h'"),
    ],
)
def test_a_wrong_pickle_is_refused_with_the_reason(content, words):
    with pytest.raises(DataError, match=words) as caught:
        parse_python(bytearray(content), HERE)
    assert str(caught.value).startswith("batch ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "multiple of 3073 bytes, found 0"),
        (binary(PIXELS, LABELS)[:-1], "multiple of 3073 bytes, found 9218"),
        (binary(PIXELS, [1, 10, 2]), "label 10"),
    ],
)
def test_a_wrong_binary_file_is_refused_with_the_reason(content, words):
    with pytest.raises(DataError, match=words):
        parse_binary(bytearray(content), HERE)


GOOD = pickled(PIXELS[:1], [3])
PIXELS_START = GOOD.index(PIXELS[0].tobytes())
STRUCTURE = [*range(PIXELS_START), *range(PIXELS_START + 3072, len(GOOD))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_pickles_give_a_batch_or_a_data_error(data):
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.sampled_from(STRUCTURE))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(GOOD)) | st.integers(0, len(GOOD)))]
    result = outcome(parse_python, content, HERE)
    if isinstance(result, DataError):
        assert "batch" in str(result)
    else:
        pixels, labels = result
        assert pixels.shape == (1, 3072)
        assert labels.shape == (1,)
        assert 0 <= labels[0] <= 9


CODES = b"}](.teucRbNqrKMJUTh0\x80\x85\x86\x89"
OPCODES = st.sampled_from([bytes((code,)) for code in CODES])
PIECES = OPCODES | st.binary(max_size=4) | st.just(b"cnumpy\ndtype\n") | st.just(short(b"data"))


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=25).map(b"".join))
def test_any_opcodes_give_a_batch_or_a_data_error(program):
    with pytest.raises(DataError):  # no such short program is a batch
        parse_python(bytearray(b"\x80\x02" + program), HERE)
    with pytest.raises(DataError):
        parse_binary(bytearray(program), HERE)
