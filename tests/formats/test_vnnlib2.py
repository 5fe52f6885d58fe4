"""VNN-LIB 2, through the package ``vnnlib``: the same properties as version 1 says."""

from __future__ import annotations

import random
import sys
from fractions import Fraction

import pytest
from vnnlib_reference import assertions, claimed, points, satisfied

from taut.errors import ConfigError, PropertyError
from taut.formats.vnnlib.read import parse

NETWORK = """; a property
(vnnlib-version <2.0>)
(declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [3]))
"""
BODY = """
(assert (and (<= X_0 0.1) (>= X_0 -0.1) (<= X_1 0.3) (>= X_1 0.3)))
(assert (or (<= (+ (* 2.0 Y_0) (- Y_1 3.0)) 0.30000000000000000001)
            (and (>= Y_1 5.0) (<= (- Y_2) (* -0.5 Y_0)))))
"""


def second(body: str) -> str:
    """The body of a file of version 1 in the names of version 2."""
    for index in range(3):
        body = body.replace(f"X_{index}", f"X[0,{index}]").replace(f"Y_{index}", f"Y[{index}]")
    return NETWORK + body


def test_the_same_property_in_both_versions() -> None:
    found = parse(second(BODY), "a file")
    assert (found.inputs, found.outputs) == (2, 3)
    met = 0
    for x, y in points(BODY, found, 2000, random.Random(0)):
        told = satisfied(assertions(BODY), x, y)
        assert claimed(found, x, y) == told
        met += told
    assert 20 < met < 1900


def test_numbers_are_taken_to_the_last_digit_and_equality_as_two_bounds() -> None:
    body = "(assert (and (== X_0 0.1) (== X_1 -0.25)))(assert (<= Y_0 0.30000000000000000001))"
    (case,) = parse(second(body), "a file").cases
    assert case.exact.lower == case.exact.upper == (Fraction("0.1"), Fraction("-0.25"))
    assert case.exact.groups[0][0].offset == Fraction("0.30000000000000000001")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (second(BODY + "(assert (< Y_0 1.0))"), "LessThan is not understood"),
        (second(BODY + "(assert (!= Y_0 1.0))"), "NotEqual is not understood"),
        (second(BODY + "(assert (<= (* Y_0 Y_1) 1.0))"), "not linear"),
        (second(BODY + "(assert (<= X_0 Y_1))"), "one input alone"),
        (second(BODY + "(assert (<= Y_0 1.0)"), "line"),
        (second(BODY + "(assert (<= Y[7] 1.0))"), "line 8: "),
        (second(BODY).replace("X[0,0] 0.1", "X[0,0] -0.2"), "the ends of X_0 cross"),
        (second(BODY).replace("(>= X[0,1] 0.3)", "(>= X[0,0] -0.3)"), "X_1 has no lower end"),
        (second(BODY).replace("<2.0>", "<2.1>"), "VNN-LIB version 2.1"),
        (second(BODY).replace("float32 [3]", "int8 [3]"), "line 6: "),
        (
            second(BODY).replace("[3]))", "[3])) (declare-network M (declare-input Z float32 [1])"
            " (declare-output W float32 [1]))"),
            "2 networks",
        ),
        (
            second(BODY).replace("(declare-out", "(declare-input Z float32 [1]) (declare-out"),
            "one input and one output",
        ),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(PropertyError) as error:
        parse(text, "a file")
    assert str(error.value).startswith("a file")
    assert "\n" not in str(error.value)
    assert told in str(error.value)


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'taut\[vnnlib\]'"):
        parse(second(BODY), "a file")
