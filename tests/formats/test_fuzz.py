"""Files with something changed get an answer that is right, or one line of an error."""

from __future__ import annotations

import gzip
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto
from onnx_mutants import mutant, originals
from test_vnnlib import DECLARED, FILES, agreeing, mutated
from test_vnnlib2 import second
from vnnlib_reference import assertions, claimed, points, satisfied

from taut.api.deciding import decide_files
from taut.attacks import PGD
from taut.errors import ModelError, PropertyError, TautError
from taut.formats.onnx import load_onnx
from taut.formats.vnnlib import VnnLib, read_vnnlib
from taut.formats.vnnlib.read import parse
from taut.verify.instance import Procedure
from taut.verify.outcome import Answer

INPUTS = {"dense": 3, "image": 9, "branching": 4}
LOW, HIGH = 0.4, 0.6
QUICK = Procedure(
    stages=("attack", "ibp", "crown"), attack=PGD(steps=3, loss="margin"), numbers=1, timeout=5
)
LONGEST = 10.0
"""Seconds that one file may take on a busy machine, far above what any needs."""


def write_property(path: Path, inputs: int, level: float) -> Path:
    """The first of two outputs comes down to a level somewhere in the box."""
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(inputs))
    text += "(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    for i in range(inputs):
        text += f"(assert (<= X_{i} {HIGH}))\n(assert (>= X_{i} {LOW}))\n"
    path.write_text(text + f"(assert (<= Y_0 {level!r}))\n")
    return path


def least_sampled(content: bytes, count: int, seed: int) -> float | None:
    """The least first output at random points, half of them corners; None where none runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception:  # its errors have no class in common
        return None
    (port,) = session.get_inputs()
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
    rng = np.random.default_rng(seed)
    share = rng.random((count, *shape))
    share[::2] = share[::2].round()
    kind = np.float64 if port.type == "tensor(double)" else np.float32
    x = (LOW + share * (HIGH - LOW)).astype(kind)
    return min(float(session.run(None, {port.name: one})[0].flat[0]) for one in x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", INPUTS)
def test_changed_networks_are_refused_or_decided_rightly(name: str, tmp_path: Path) -> None:
    """210 of each; the level is a little below what the unchanged network comes down to."""
    original, chance = originals()[name], random.Random(name)
    whole = original.SerializeToString()
    reached = least_sampled(whole, 4000, 0)
    assert reached is not None
    asked = write_property(tmp_path / "asked.vnnlib", INPUTS[name], reached - 0.05)
    path, seen = tmp_path / "net.onnx", Counter[str]()
    path.write_bytes(whole)
    assert decide_files(path, asked, Procedure(timeout=60)).answer is Answer.UNSAT
    for number in range(210):
        content = mutant(original, number, chance)
        path.write_bytes(content)
        began = time.perf_counter()
        try:
            found = decide_files(path, asked, QUICK)
        except TautError as error:
            one_line(error)
            seen["refused"] += 1
            continue
        finally:
            assert time.perf_counter() - began < LONGEST
        seen[found.answer.value] += 1
        if found.answer is Answer.UNSAT:
            least = least_sampled(content, 1000, number)
            seen["not run"] += least is None
            assert least is None or least > reached - 0.05, number
        elif found.witness is not None:
            assert found.witness.outputs[0] <= reached - 0.05
    assert seen["refused"] > 100
    assert min(seen["unsat"], seen["sat"]) > 0


def _size(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 4


def _type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def _axis(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Concat").attribute[0].i = -5


def _huge(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**33


BROKEN: dict[str, tuple[str, Callable[[ModelProto], None], str]] = {
    "numbers of another shape": ("dense", _size, r"'w' is damaged|breaks the rules"),
    "an unknown type": ("dense", _type, r"'w' is damaged|breaks the rules"),
    "an axis that is not there": ("branching", _axis, r"axis -5 of a tensor of 2|breaks the rules"),
    "a huge input": ("dense", _huge, r"more than 67108864 numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name: str, tmp_path: Path) -> None:
    kind, change, told = BROKEN[name]
    model = originals()[kind]
    change(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=told):
        load_onnx(path)


def damaged(content: bytes, number: int, chance: random.Random) -> bytes:
    """Return two times in three content with a bit turned over, else its beginning."""
    if number % 3 == 0:
        return content[: chance.randrange(len(content))]
    turned = bytearray(content)
    turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
    return bytes(turned)


def test_networks_that_are_cut_off_or_packed_badly(tmp_path: Path) -> None:
    whole = originals()["dense"].SerializeToString()
    asked = write_property(tmp_path / "asked.vnnlib", 3, -100.0)
    packed, chance, opened = gzip.compress(whole, mtime=0), random.Random(0), 0
    path = tmp_path / "net.onnx.gz"
    for number in range(120):
        path.write_bytes(damaged(packed, number, chance))
        try:
            opened += decide_files(path, asked, QUICK).answer is Answer.UNSAT
        except TautError as error:
            one_line(error)
    assert 0 < opened < 20  # what gzip's header says besides the sizes is not looked at


def one_line(error: TautError) -> None:
    assert "\n" not in str(error)


def same(found: VnnLib, other: VnnLib) -> bool:
    return [case.exact for case in found.cases] == [case.exact for case in other.cases]


def test_changed_files_of_version_2_are_refused_or_mean_what_they_say() -> None:
    """2,000 files, each against the plainest reading of what it asserts."""
    chance, texts = random.Random(1), [in_version_2(t) for n, t in FILES.items() if n != "comments"]
    assert all(parse(text, "a file").cases for text in texts)
    accepted, other = agreeing(texts, chance, first_names)
    assert accepted > 100
    assert other > 20


def in_version_2(text: str) -> str:
    """The text of version 1 in the names and numbers of version 2, which have a point."""
    body = text.removeprefix(DECLARED).replace("1e-1", "0.1")
    return second(re.sub(r"(?<![\w.])(-?\d+)(?![\w.])", r"\1.0", body))


def first_names(text: str) -> str:
    """The text in the names of version 1; brackets and signs end a word in version 2."""
    text = re.sub(r"([<>]=)", r" \1 ", text)
    return re.sub(r"([XY])\s*\[\s*(?:0+\s*,\s*)?0*(\d)\s*\]", r" \1_\2 ", text)


def test_changed_files_of_version_1_once_more() -> None:
    """1,000 files, some with many changes."""
    chance, texts = random.Random(2), list(FILES.values())
    accepted = 0
    for number in range(1000):
        text = texts[number % len(texts)]
        for _ in range(chance.choice([1, 1, 3])):
            text = mutated(text, chance)
        try:
            found = parse(text, "a file")
        except PropertyError as error:
            one_line(error)
            continue
        accepted += 1
        trees = assertions(text)
        for x, y in points(text, found, 20, chance):
            assert claimed(found, x, y) == satisfied(trees, x, y), text
    assert accepted > 50


def test_packed_properties_that_are_damaged_are_refused_or_the_same(tmp_path: Path) -> None:
    """500 files, of both versions."""
    chance, path = random.Random(3), tmp_path / "asked.vnnlib.gz"
    refused = 0
    for number in range(500):
        text = list(FILES.values())[number % len(FILES)]
        text = text if number % 2 or "comment" in text else in_version_2(text)
        packed = gzip.compress(text.encode(), mtime=0)
        path.write_bytes(damaged(packed, number, chance))
        try:
            assert same(read_vnnlib(path), parse(text, "a file"))
        except PropertyError as error:
            one_line(error)
            refused += 1
    assert 300 < refused < 500
