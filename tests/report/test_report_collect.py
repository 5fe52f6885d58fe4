"""From a run folder on the disk to the data of its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_run import EPS, Case

from taut.errors import RunError
from taut.report import collect, render
from taut.report.gallery import BROKEN, OTHERS, choose
from taut.store import RunFolder, hash_weights
from taut.verify.verdict import Status, Verdict

RECIPE = {"data": {"name": "mnist-5k"}, "model": {"name": "dm-small"}, "train": {"epochs": 12}}
WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3)}
META = {"weights": "ab" * 32, "data": "mnist-5k", "split": "test", "eps": EPS,
        "cascade": {"stages": ["clean", "attack", "ibp"]}, "seed": 0}  # fmt: skip


def fill(path: Path, case: Case, *parts: str) -> RunFolder:
    """A run folder with some of: metrics, weights, summary, journal; open for reading."""
    with RunFolder.create(path, "train", RECIPE, 3) as run:
        if "metrics" in parts:
            for row in case.data.metrics:
                run.append_metrics(row)
        if "weights" in parts:
            architecture = {"name": "dm-small", "input_shape": [1, 28, 28], "classes": 10}
            run.save_weights(WEIGHTS, architecture)
        if "summary" in parts:
            run.write_summary(case.data.summary)
        if "journal" in parts:
            with run.journal(META) as journal:
                for verdict in case.data.verdicts:
                    journal.record(verdict)
    return RunFolder.open(path)


def test_a_whole_run_comes_back_as_it_was_written(case: Case, tmp_path: Path) -> None:
    asked: list[int] = []

    def images(indices: Sequence[int]) -> np.ndarray:
        asked.extend(indices)
        return case.images[list(indices)]

    def classify(x: np.ndarray) -> np.ndarray:
        assert x.shape[1:] == (1, 28, 28)
        return np.full(len(x), 42)

    run = fill(tmp_path / "a", case, "metrics", "weights", "summary", "journal")
    data = collect(run, images=images, classify=classify, commands=["taut train"])
    assert list(data.verdicts) == list(case.data.verdicts)
    assert list(data.metrics) == list(case.data.metrics)
    assert data.summary == case.data.summary
    assert data.weights_sha256 == META["weights"]
    assert set(data.images) == set(asked)
    assert len(asked) == len(set(asked)) == 20 + 3 * OTHERS
    broken = {v.index for v in case.data.verdicts if v.counterexample is not None}
    assert data.adversarial_predictions == dict.fromkeys(broken, 42)
    assert data.title == "dm-small on mnist-5k, test split, eps 0.1 (25.5/255)"
    page = render(data)
    assert "certification.cascade" in page
    assert "mnist-5k, test split" in page


@pytest.mark.parametrize(
    "parts", [(), ("metrics",), ("metrics", "weights"), ("summary",), ("journal",)]
)
def test_what_is_not_there_stays_empty(case: Case, tmp_path: Path, parts: tuple[str, ...]) -> None:
    data = collect(fill(tmp_path / "a", case, *parts), title="A run")
    assert bool(data.metrics) == ("metrics" in parts)
    assert bool(data.verdicts) == ("journal" in parts)
    assert ("natural_accuracy" in data.summary) == ("summary" in parts)
    assert data.images == {}
    assert data.adversarial_predictions is None
    if "weights" in parts:
        assert data.weights_sha256 == hash_weights(WEIGHTS)
    assert "A run" in render(data)


def test_a_summary_of_another_eps_is_refused(case: Case, tmp_path: Path) -> None:
    changed = replace(case.data, summary={**case.data.summary, "eps": 0.2})
    run = fill(tmp_path / "a", replace(case, data=changed), "summary", "journal")
    with pytest.raises(RunError, match=r"eps 0.2 and the journal for eps 0.1"):
        collect(run)


def test_a_data_set_that_is_too_short_is_refused(case: Case, tmp_path: Path) -> None:
    run = fill(tmp_path / "a", case, "journal")
    with pytest.raises(RunError, match="gave 2 images where 38 were asked for"):
        collect(run, images=lambda indices: case.images[:2])


def test_inputs_that_are_no_pictures_have_no_gallery(case: Case, tmp_path: Path) -> None:
    run = fill(tmp_path / "a", case, "journal")
    data = collect(run, images=lambda indices: np.zeros((len(indices), 784)))
    assert data.images == {}
    assert "made without the images" in render(data)


def many(status: Status, count: int, **fields: Any) -> list[Verdict]:
    standard = {"stage": "ibp", "reason": "", "margin": 1.0, "counterexample": None, **fields}
    return [Verdict(i, i % 3, i % 3, status, seconds=0.1, **standard) for i in range(count)]


def test_gallery_takes_classes_in_turn_and_the_closest_bounds() -> None:
    point = torch.zeros(1, 2, 2)
    broken = choose(many(Status.FALSIFIED, 90, counterexample=point)).broken
    assert len(broken) == BROKEN
    assert [v.label for v in broken[:6]] == [0, 1, 2, 0, 1, 2]
    assert [v.index for v in broken] == list(range(BROKEN))
    verified = [replace(v, margin=float(50 - v.index)) for v in many(Status.VERIFIED, 50)]
    assert [v.margin for v in choose(verified).verified] == [1, 2, 3, 4, 5, 6]
    unknown = [replace(v, margin=-float(v.index) if v.index else -np.inf)
               for v in many(Status.UNKNOWN, 9)]  # fmt: skip
    assert [v.index for v in choose(unknown).undecided] == [1, 2, 3, 4, 5, 6]
    assert choose(many(Status.UNKNOWN, 3, margin=float("nan"))).indices == [0, 1, 2]
