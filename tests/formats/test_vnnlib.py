"""VNN-LIB 1: what is read is what the file says, to the last digit; all else is refused."""

from __future__ import annotations

import gzip
import os
import random
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vnnlib_reference import assertions, claimed, points, rounded_claim, satisfied

from taut.errors import PropertyError
from taut.formats.vnnlib import VnnLib, counterexample, decimal, read_vnnlib
from taut.formats.vnnlib.read import parse

DECLARED = """
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(declare-const Y_2 Real)
"""
BOX = "(assert (<= X_0 0.5)) (assert (>= X_0 -1)) (assert (<= X_1 1e-1)) (assert (>= X_1 0.1))\n"
UNSAFE = "(assert (<= Y_0 Y_1))"
WELL = DECLARED + BOX + UNSAFE

FILES = {
    "a margin": WELL,
    "a union": DECLARED + BOX + "(assert (or (and (>= Y_0 Y_2)) (and (>= Y_1 Y_2) (<= Y_0 3.5))))",
    "a conjunction": DECLARED + BOX + "(assert (<= Y_1 Y_0)) (assert (<= Y_2 Y_0))",
    "bare comparisons in an or": DECLARED + BOX + "(assert (or (>= Y_0 1) (<= -2.25 Y_1)))",
    "boxes and outputs mixed": DECLARED
    + """(assert (or
      (and (<= X_0 1) (>= X_0 0.25) (<= X_1 2) (>= X_1 0) (<= Y_0 Y_1))
      (and (<= X_0 -3) (>= X_0 -4) (<= X_1 2) (>= X_1 0) (<= Y_2 0.125) (>= Y_2 -0.125))))""",
    "boxes times outputs": DECLARED
    + "(assert (<= X_1 2)) (assert (>= X_1 0))"
    + "(assert (or (and (<= X_0 1) (>= X_0 0.5)) (and (<= X_0 -0.5) (>= X_0 -1))))"
    + "(assert (or (<= Y_0 Y_1) (<= Y_0 Y_2)))",
    "arithmetic": DECLARED
    + "(assert (and (>= 0.7 (* 2 X_0)) (<= (- 1) (+ X_0 X_0 0.5)) (<= X_1 1) (>= (- X_1) -1)"
    + " (>= X_1 (- 2 3 0.5))))"
    + "(assert (>= (+ (* 0.1 Y_0) (- Y_1 (* Y_2 0.3)) 1.5) (- 0.25 Y_0)))",
    "nested": DECLARED + BOX + "(assert (and (or (<= Y_0 1) (and (<= Y_1 2) (or (>= Y_2 3)"
    " (<= Y_2 -3)))) (or (<= Y_1 Y_2) (>= Y_0 0))))",
    "comments": "; (assert nonsense\n" + WELL.replace("\n", " ; and so on )\n") + " ; the end",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_is_read_is_what_the_file_says(name: str) -> None:
    text = FILES[name]
    found = parse(text, "a file")
    assert (found.inputs, found.outputs) == (2, 3)
    met, trees = 0, assertions(text)
    for x, y in points(text, found, 1500, random.Random(0)):
        told = satisfied(trees, x, y)
        assert claimed(found, x, y) == told
        assert not told or rounded_claim(found, x, y)
        met += told
    assert 20 < met < 1400


def test_boxes_are_rounded_outwards_and_right_hand_sides_up() -> None:
    text = WELL.replace("0.5)", "0.1)").replace("X_0 -1", "X_0 -0.3")
    text = text.replace("(<= Y_0 Y_1)", "(>= Y_0 0.1)")
    (case,) = parse(text, "a file").cases
    tenth, third = Fraction(1, 10), Fraction(-3, 10)
    for bound, end in ((case.upper[0], tenth), (case.lower[0], third), (case.upper[1], tenth)):
        assert abs(Fraction(float(bound)) - end) < Fraction(1, 10**16)
    assert Fraction(float(case.lower[0])) < third < Fraction(float(case.inner_lower[0]))
    assert Fraction(float(case.upper[0])) > tenth > Fraction(float(case.inner_upper[0]))
    # A fixed input that float64 does not hold: the box is two numbers wide, the point between.
    assert case.lower[1] < case.upper[1]
    assert float(case.inner_lower[1]) == float(case.inner_upper[1]) == 0.1
    assert case.exact.lower[1] == case.exact.upper[1] == tenth
    assert case.specification.rows.tolist() == [[-1, 0, 0]]
    assert Fraction(float(case.specification.offsets[0])) >= -tenth


def test_a_large_file_is_read_in_about_a_second(tmp_path: Path) -> None:
    """As time of the processor, against the plainest thing one could do with the text."""
    count = 12_000
    lines = [f"(declare-const X_{i} Real)" for i in range(count)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(10)]
    for i in range(count):
        lines += [f"(assert (<= X_{i} {0.5 + i / 1e6}))", f"(assert (>= X_{i} {i / 1e6}))"]
    lines.append("(assert (or " + " ".join(f"(and (>= Y_{i} Y_9))" for i in range(9)) + "))")
    path = tmp_path / "large.vnnlib.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    began = time.process_time()
    found = read_vnnlib(path)
    seconds = time.process_time() - began
    assert seconds < 3
    assert found.inputs == count
    assert found.cases[0].specification.count == 9
    assert float(found.cases[0].exact.upper[count - 1]) == 0.5 + (count - 1) / 1e6


REFUSED = {
    "(declare-const X_0 Real": ("line 1", "ends in the middle"),
    WELL + ")": ("line 8, column 22", "expected '('"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert (< Y_0 Y_1))"): ("line 8, column 10", "'<'"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert (= Y_0 Y_1))"): ("line 8", "'='"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert (not (<= Y_0 1)))"): ("line 8", "'not'"),
    WELL.replace("Y_0 Y_1", "Y_0 Y_3"): ("line 8, column 17", "Y_3 is not declared"),
    WELL.replace("Y_0 Y_1", "Y_0 Y_1 Y_2"): ("line 8, column 21", "expected ')'"),
    WELL.replace("Y_0 Y_1", "Y_0"): ("line 8", "')'"),
    WELL.replace("Y_0 Y_1", "Y_0 Y_0"): ("line 8", "no variable is left"),
    WELL.replace("Y_0 Y_1", "1 2"): ("line 8", "no variable is left"),
    WELL.replace("Y_0 Y_1", "X_0 Y_1"): ("line 8", "one input alone"),
    WELL.replace("Y_0 Y_1", "X_0 X_1"): ("line 8", "one input alone"),
    WELL.replace("Y_0 Y_1", "(* Y_0 Y_1) 2"): ("line 8", "not linear"),
    WELL.replace("Y_0 Y_1", "(/ Y_0 2) 2"): ("line 8", "'/'"),
    WELL.replace("Y_0 Y_1", "(* 3 X_0) 2"): ("line 8", "2/3, which is no finite decimal"),
    WELL.replace("Y_0 Y_1", "(+ (* 0.12345678901234567890 Y_0) Y_1) 2"): ("line 8", "53 bits"),
    WELL.replace("0.5", "0.5.5"): ("line 7", "'0.5.5'"),
    WELL.replace("0.5", "1/2"): ("line 7", "'1/2'"),
    WELL.replace("0.5", "inf"): ("line 7", "'inf'"),
    WELL.replace("0.5", "\u0661"): ("line 7", "neither a declared variable nor a number"),
    WELL.replace("0.5", "1e9999"): ("line 7", "'1e9999'"),
    WELL.replace("0.5", "1e999"): ("a file", "beyond the range of float64"),
    WELL.replace("0.5", "5" * 500): ("line 7", "5..."),
    WELL.replace("0.5", "-2"): ("a file", "the ends of X_0 cross"),
    WELL.replace("(assert (<= X_0 0.5))", ""): ("a file", "X_0 has no upper end"),
    WELL.replace("(assert (>= X_1 0.1))", ""): ("a file", "X_1 has no lower end"),
    WELL.replace("(declare-const X_1 Real)", ""): ("line 7", "X_1 is not declared"),
    WELL.replace("X_0", "X_2"): ("a file", "declares input X_2, but no input X_0"),
    WELL.replace("X_0 Real", "X_1 Real"): ("line 3", "X_1 is declared twice"),
    WELL.replace("X_0 Real", "X_00 Real"): ("line 2, column 16", "'X_00' is not the name"),
    WELL.replace("X_0 Real", "X_0 Int"): ("line 2, column 20", "the sort Real"),
    WELL.replace("Y_2 Real", "Z_2 Real"): ("line 6", "'Z_2'"),
    WELL.replace("declare-const", "declare-fun"): ("line 2, column 2", "'declare-fun'"),
    WELL.replace("(assert (<= Y_0 Y_1))", ""): ("a file", "nothing is asserted about the outputs"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert (or (<= Y_0 1) (<= X_0 0)))"): (
        "a file", "nothing is asserted about the outputs"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert (and))"): ("line 8", "expected '('"),
    WELL.replace("(assert (<= Y_0 Y_1))", "(assert true)"): ("line 8", "expected '('"),
    WELL + "(set-logic QF_LRA)": ("line 8, column 23", "'set-logic'"),
    WELL + "(assert " + "(and " * 60 + "(<= Y_0 1)" + ")" * 61: ("line 8", "within each other"),
    WELL + "(assert (<= " + "(- " * 60 + "1" + ")" * 60 + " Y_0))": ("line 8", "within each other"),
    WELL + "(assert (or (<= Y_0 1) (<= Y_1 1)))" * 14: ("a file", "more than 10000 alternatives"),
    "": ("a file", "declares no input X_0"),
    "(vnnlib-version <3.0>)": ("a file", "VNN-LIB version 3.0"),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_understood_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PropertyError) as told:
        parse(text, "a file")
    message = str(told.value)
    assert "\n" not in message
    for part in ("a file", *REFUSED[text]):
        assert part in message, message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content, told in (
        ("damaged.vnnlib.gz", gzip.compress(WELL.encode())[:-20], "damaged or truncated"),
        ("picture.vnnlib", b"\xff\xfe\x00", "no text file"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(PropertyError, match=told):
            read_vnnlib(path)
    with pytest.raises(PropertyError, match=r"no property file .*nosuch"):
        read_vnnlib(tmp_path / "nosuch")


def test_a_network_of_other_sizes_is_refused() -> None:
    found = parse(WELL, "a file")
    found.check_fits((2,), (3,))
    found.check_fits((1, 2, 1), (3, 1))
    for shapes in (((3,), (3,)), ((2,), (2,))):
        with pytest.raises(PropertyError, match="2 inputs and 3 outputs, and the network has"):
            found.check_fits(*shapes)


# A writer, for properties that are drawn.

NUMBERS = st.decimals(-5, 5, allow_nan=False, allow_infinity=False, places=4)
WHITE = st.sampled_from([" ", "\n", "\t", "  ", " ; a comment ( \n", "\r\n"])


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    first = draw(st.sampled_from(["Y_0", "Y_1"]))
    second = str(draw(NUMBERS)) if draw(st.booleans()) else {"Y_0": "Y_1", "Y_1": "Y_0"}[first]
    if draw(st.booleans()):
        first = f"(+ (* {draw(NUMBERS.filter(bool))} {first}) {draw(NUMBERS)})"
    pair = (first, second) if draw(st.booleans()) else (second, first)
    return f"({draw(st.sampled_from(['<=', '>=']))} {pair[0]} {pair[1]})"


@st.composite
def boxes(draw: st.DrawFn) -> str:
    low, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    return f"(and (>= X_0 {low}) (<= X_0 {high}))"


def formulas(depth: int = 2) -> st.SearchStrategy[str]:
    if depth == 0:
        return comparisons()
    parts = st.lists(formulas(depth - 1), min_size=1, max_size=3).map(" ".join)
    return st.one_of(comparisons(), parts.map("(and {})".format), parts.map("(or {})".format))


@st.composite
def properties(draw: st.DrawFn) -> str:
    text = "(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)\n"
    joined = " ".join(draw(st.lists(boxes(), min_size=1, max_size=3)))
    text += f"(assert (or {joined})) (assert {draw(formulas())}) (assert {draw(formulas())})"
    return re.sub(" ", lambda _: draw(WHITE), text) if draw(st.booleans()) else text


@settings(max_examples=60, deadline=None)
@given(properties(), st.integers(0, 2**32))
def test_what_was_written_is_read(text: str, seed: int) -> None:
    found, trees = parse(text, "a file"), assertions(text)
    for x, y in points(text, found, 30, random.Random(seed)):
        told = satisfied(trees, x, y)
        assert claimed(found, x, y) == told
        assert not told or rounded_claim(found, x, y)


# Files with something changed.

ALPHABET = "()<>=+-*. 0123456789eEXY_;\nandorassertdeclare-constReal"


def mutated(text: str, generator: random.Random) -> str:
    words = re.findall(r"[()]|[^\s()]+|\s+", text)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        kind = generator.randrange(6)
        at, other = generator.randrange(len(words)), generator.randrange(len(words))
        if kind == 0:
            del words[at]
        elif kind == 1:
            words.insert(at, words[other])
        elif kind == 2:
            words[at], words[other] = words[other], words[at]
        elif kind == 3:
            words[at] = generator.choice(["<=", ">=", "and", "or", "X_0", "Y_1", "0.1", "(", ")"])
        else:
            word = words[at]
            place = generator.randrange(len(word) + 1)
            drop = generator.randrange(2)
            words[at] = word[:place] + generator.choice(ALPHABET) + word[place + drop :]
        if not words:
            words = [" "]
    return "".join(words)


def agreeing(
    texts: list[str], chance: random.Random, plain: Callable[[str], str] = str
) -> tuple[int, int]:
    """Change 2,000 files; those that are read mean what they say, read as ``plain`` has them.

    Returns how many were read, and at how many points another property was meant than before.
    """
    accepted, other, messages = 0, 0, []
    for number in range(2000):
        original = texts[number % len(texts)]
        text = mutated(original, chance)
        try:
            found = parse(text, "a file")
        except PropertyError as error:
            messages.append(str(error))
            continue
        accepted += 1
        trees, before = assertions(plain(text)), assertions(plain(original))
        for x, y in points(plain(text), found, 20, chance):
            told = satisfied(trees, x, y)
            assert claimed(found, x, y) == told, text
            if (found.inputs, found.outputs) == (2, 3):
                other += told != satisfied(before, x, y)
    assert all(told.startswith("a file") and "\n" not in told for told in messages)
    return accepted, other


def test_changed_files_are_refused_or_mean_what_they_say() -> None:
    accepted, other = agreeing(list(FILES.values()), random.Random(0))
    assert accepted > 200
    assert other > 20  # some changes do change the property


# The format of answers.


def test_counterexamples_are_written_in_exact_decimals() -> None:
    inputs = [Fraction("0.1"), Fraction(-5), Fraction(1, 8), Fraction("-1e-7"), Fraction("12e3")]
    text = counterexample(inputs, [0.5, -1e-9])
    assert text == (
        "((X_0 0.1)\n (X_1 -5)\n (X_2 0.125)\n (X_3 -0.0000001)\n (X_4 12000)\n"
        " (Y_0 0.5)\n (Y_1 -1e-09))"
    )
    with pytest.raises(PropertyError, match="no finite decimal"):
        decimal(Fraction(1, 3))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_are_exact(value: float) -> None:
    assert Fraction(decimal(Fraction(value))) == Fraction(value)


def benchmark_files() -> list[Path]:
    """Every twentieth property of VNN-COMP, and the short ones, where they lie in TAUT_DATA."""
    folder = Path(os.environ.get("TAUT_DATA", "nowhere")) / "vnncomp"
    found = sorted(folder.glob("*/**/*.vnnlib.gz"))
    return [path for n, path in enumerate(found) if n % 20 == 0 or path.stat().st_size < 1000]


def test_the_properties_of_vnncomp_where_they_are() -> None:
    for path in benchmark_files():
        found: VnnLib = read_vnnlib(path)
        text = gzip.decompress(path.read_bytes()).decode()
        assert text.count("declare-const") == found.inputs + found.outputs
        if len(text) < 3000:
            trees = assertions(text)
            for x, y in points(text, found, 200, random.Random(1)):
                assert claimed(found, x, y) == satisfied(trees, x, y)
        else:
            (case,) = found.cases
            for sign, ends in (("<=", case.exact.upper), (">=", case.exact.lower)):
                lines = re.findall(rf"\({sign} X_(\d+) ([-0-9.e]+)\)", text)
                assert {int(i): Fraction(v) for i, v in lines} == dict(enumerate(ends))
