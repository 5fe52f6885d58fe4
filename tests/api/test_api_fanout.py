"""A certification by several processes: the verdicts of one, whatever dies; a single writer."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pool_works import decided, small_job
from torch import nn

from taut.api import results
from taut.api.fanout import Certifying, Chosen, certify_with
from taut.api.pool import Lost
from taut.api.processes import Processes
from taut.errors import ModelError
from taut.store import Journal
from taut.verify import Status, Verdict, certify


def kept(folder: Path) -> list[Verdict]:
    with Journal(folder / "journal.sqlite") as journal:
        return journal.verdicts()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small job, certified in this process."""
    folder = tmp_path_factory.mktemp("plain") / "a"
    results.run(small_job(), folder)
    found = kept(folder)
    assert {v.status for v in found} == {Status.VERIFIED, Status.FALSIFIED}
    assert {v.stage for v in found} >= {"clean", "attack", "branch"}
    return folder


def test_two_processes_find_what_one_finds_though_both_are_killed_on_the_way(
    plain: Path, tmp_path: Path
) -> None:
    heard: list[int] = []

    def killing(verdict: Verdict) -> None:
        heard.append(verdict.index)
        if len(heard) == 3:
            for worker in multiprocessing.active_children():
                worker.kill()

    figures = results.run(small_job(), tmp_path / "b", pool=Processes(2, 2), on_verdict=killing)
    assert sorted(heard) == list(range(24))  # each told once
    one, two = kept(plain), kept(tmp_path / "b")
    assert [decided(v) for v in two] == [decided(v) for v in one]
    for mine, theirs in zip(one, two, strict=True):
        assert mine.margin == pytest.approx(theirs.margin, rel=1e-4, abs=1e-5)
    assert "stage_seconds" not in figures
    for name in ("natural_accuracy", "attacked_accuracy", "certified_accuracy", "verdicts"):
        assert figures[name] == results.run(small_job(), plain)[name]
    assert not multiprocessing.active_children()


@dataclass(frozen=True)
class Here:
    """A pool in this process, whose worker dies over some images unless only `clean` is asked."""

    deadly: tuple[int, ...]
    buried: tuple[int, ...] = ()
    streams: bool = False

    def run(self, work: Certifying, items: Chosen, size: int) -> Any:
        assert size == 1  # since `branch` takes part and nothing is told before a batch is done
        for place, image in enumerate(items):
            over = image.index in self.deadly and work.cascade.stages != ("clean",)
            if over or image.index in self.buried:
                yield place, Lost()
                continue
            told: list[tuple[int, Verdict]] = []
            work.begin()([image], lambda at, verdict, told=told: told.append((at, verdict)))
            assert [at for at, _ in told] == [0]
            yield place, told[0][1]


def test_an_image_that_no_worker_survives_is_unknown_and_still_classified(plain: Path) -> None:
    job, found = small_job(), dict[int, Verdict]()
    pool = Here(deadly=(0, 1, 2), buried=(3,))
    certify_with(
        pool, job.model, job.images, range(24), job.eps, job.cascade,
        lambda verdict: found.__setitem__(verdict.index, verdict),
    )  # fmt: skip
    one = {v.index: v for v in kept(plain)}
    assert found[0].reason == one[0].reason == "misclassified"
    for index in (1, 2):
        assert (found[index].status, found[index].reason) == (Status.UNKNOWN, "worker")
        assert found[index].predicted == one[index].predicted
    assert (found[3].status, found[3].reason, found[3].predicted) == (
        Status.UNKNOWN, "worker", -1,
    )  # fmt: skip
    assert [decided(found[i]) for i in range(4, 24)] == [decided(one[i]) for i in range(4, 24)]


def test_the_model_is_left_where_and_as_it_was() -> None:
    job = small_job(4)
    before = {key: value.clone() for key, value in job.model.state_dict().items()}
    pool = Here(())
    certify_with(
        pool, job.model.train(), job.images, [2, 0], job.eps, job.cascade, lambda verdict: None
    )
    assert job.model.training
    assert all(torch.equal(before[key], value) for key, value in job.model.state_dict().items())


def test_an_error_of_a_worker_is_the_error_of_the_certification(tmp_path: Path) -> None:
    job = small_job(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    with pytest.raises(ModelError, match=r"does not accept images of shape \(1, 4, 4\)") as alone:
        certify(model, job.images.pixels(), job.images.labels, 0.1)
    with pytest.raises(ModelError) as shared:
        results.run(replace(job, model=model), tmp_path / "a", pool=Processes(1, 1))
    assert str(shared.value) == str(alone.value)
    assert not (tmp_path / "a").exists()  # as without workers, the place stays free
    assert not multiprocessing.active_children()


def test_parts_are_counted_and_kept(plain: Path) -> None:
    found = kept(plain)
    counts = [v.parts for v in found]
    assert all(count >= 1 for v, count in zip(found, counts, strict=True) if v.stage == "branch")
    assert all(count == 0 for v, count in zip(found, counts, strict=True) if v.stage == "clean")
    assert results.run(small_job(), plain)["parts"] == {
        "total": sum(counts),
        "largest": max(counts),
    }


def test_images_are_made_when_they_are_asked_for() -> None:
    images = small_job(9).images
    chosen = Chosen(images, [4, 7, 2])
    assert len(chosen) == 3
    assert [image.index for image in chosen] == [4, 7, 2]
    assert [image.index for image in chosen[1:]] == [7, 2]
    assert torch.equal(chosen[1].pixels, images.pixels(7))
    assert chosen[1].label == int(images.labels[7])
    # what is pickled is one image, not the set it is a view of
    assert chosen[1].pixels.untyped_storage().nbytes() == chosen[1].pixels.nbytes
