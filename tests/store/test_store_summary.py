"""The summary: required figures, consistent accuracies, exact round trip."""

import math

import pytest

from taut.errors import RunError
from taut.store import read_summary, write_summary

GOOD = {
    "natural_accuracy": 0.97,
    "attacked_accuracy": 0.9,
    "certified_accuracy": 0.85,
    "images": 100,
    "eps": 0.1,
    "seconds": 12.5,
    "verdicts": {
        "clean": {"verified": 0, "falsified": 3, "unknown": 0},
        "attack": {"verified": 0, "falsified": 7, "unknown": 0},
        "ibp": {"verified": 85, "falsified": 0, "unknown": 5},
    },
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"extra": {"nested": [1, None, math.inf]}},
        {"certified_accuracy": None, "verdicts": {}},
        {"attacked_accuracy": None},
        {"natural_accuracy": 0.85, "attacked_accuracy": 0.85},
        {"images": 0, "verdicts": {}},
    ],
)
def test_a_summary_reads_back(tmp_path, change):
    write_summary(tmp_path / "summary.json", {**GOOD, **change})
    assert read_summary(tmp_path / "summary.json") == {**GOOD, **change}


def stage(**changes):
    return {"ibp": {"verified": 85, "falsified": 10, "unknown": 5, **changes}}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"natural_accuracy": 1.01}, "natural_accuracy"),
        ({"certified_accuracy": -0.1}, "certified_accuracy"),
        ({"natural_accuracy": math.nan}, "natural_accuracy"),
        ({"natural_accuracy": True}, "natural_accuracy"),
        ({"natural_accuracy": 97}, "natural_accuracy"),
        ({"attacked_accuracy": 0.98}, "attacked_accuracy"),
        ({"attacked_accuracy": 0.8}, "certified_accuracy"),
        ({"attacked_accuracy": None, "natural_accuracy": 0.8}, "certified_accuracy"),
        ({"images": 100.0}, "images"),
        ({"images": -1}, "images"),
        ({"images": 99}, "99 images"),
        ({"eps": -0.1}, "eps"),
        ({"eps": math.inf}, "eps"),
        ({"eps": None}, "eps"),
        ({"seconds": math.nan}, "seconds"),
        ({"certified_accuracy": 0.84}, "85 verified"),
        ({"verdicts": [1]}, "verdicts"),
        ({"verdicts": stage(verified=84)}, "add up"),
        ({"verdicts": stage(verified=-85)}, "ibp"),
        ({"verdicts": stage(maybe=1)}, "ibp"),
        ({"verdicts": {"ibp": {"verified": 100}}}, "ibp"),
        ({"verdicts": stage(verified=84, unknown=6)}, "84 verified"),
    ],
)
def test_figures_that_cannot_be_are_refused(tmp_path, change, word):
    with pytest.raises(RunError, match=word):
        write_summary(tmp_path / "summary.json", {**GOOD, **change})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", list(GOOD))
def test_every_key_is_required(tmp_path, key):
    with pytest.raises(RunError, match=key):
        write_summary(tmp_path / "summary.json", {k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_summary_is_an_error(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(RunError, match=r"summary\.json"):
        read_summary(tmp_path / "summary.json")


def test_a_missing_summary_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="run the command"):
        read_summary(tmp_path / "summary.json")
