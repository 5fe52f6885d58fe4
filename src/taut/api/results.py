"""Certifications that are kept: a folder with a journal, written image by image.

Layout
------
The results on a run lie in folders of their own below the run's, so that several eps, splits
and data sets stand side by side::

    runs/a/                                   the training run
      summary.json                            figures of its latest certification
      certify-mnist-test-eps0.1/              one certification:
        config.json                             what was certified, and how
        journal.sqlite                          verdicts, one committed row per image
        summary.json                            its figures
      attack-mnist-test-eps0.1-pgd40x1-ce/    one attack, in the same files
      bounds-mnist-test-eps0.1/summary.json   margin bounds

Beside a weights file ``m.safetensors`` the folders are called ``m-certify-...`` and so on. A
radius of a whole number of grey levels is written as such: ``eps8-255``.

A folder belongs to one set of weights and one setting. Images that have a verdict in its
journal are not certified again, so a certification that was killed goes on where it stopped,
and one of more images takes over what is known of the first ones.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taut.api import retrying, straddling
from taut.api.fanout import certify_with
from taut.api.loading import network_name
from taut.api.pool import Pool
from taut.data import ImageSet
from taut.errors import RunError, TautError
from taut.models import cells_of
from taut.store import Journal, RunFolder, hash_weights
from taut.store.config import difference
from taut.verify import Cascade, Certification, Verdict, certify
from taut.verify.complete import COMPLETE_STAGES
from taut.verify.inputs import placement

_FILES = ("config.json", "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm",
          "summary.json", "report.html", ".lock")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Job:
    """What is certified, and how.

    Parameters
    ----------
    kind
        ``"certify"`` or ``"attack"``.
    model, architecture
        The network and what its weights file says of it.
    images
        A split of a data set from its first image on.
    eps
        Radius in pixel units of [0, 1].
    cascade
        Stages, attack, time limit and seed. Batch and piece size may change between calls.

    """

    kind: str
    model: nn.Module
    architecture: Mapping[str, Any]
    images: ImageSet
    eps: float
    cascade: Cascade

    def describe(self) -> dict[str, Any]:
        """Return what verdicts depend on, in plain values."""
        cascade = dataclasses.asdict(self.cascade)
        for free in ("batch_size", "piece_size", "seed"):  # the last has a place of its own
            del cascade[free]
        cascade["attack"] = {
            "name": type(self.cascade.attack).__name__.lower(),
            **dataclasses.asdict(self.cascade.attack),
        }
        used = self.cascade.complete()
        for name in COMPLETE_STAGES:  # settings of what does not take part decide nothing
            cascade.pop(name, None)
            if name in used:
                cascade[name] = dataclasses.asdict(used[name])
        return {
            "weights": hash_weights(self.model.state_dict()),
            "model": network_name(self.architecture),
            "dtype": str(placement(self.model)[1]).removeprefix("torch."),
            "data": self.images.name,
            "split": self.images.split,
            "eps": self.eps,
            "cascade": cascade,
        }


def folder_name(kind: str, images: ImageSet, eps: float, cascade: Cascade | None = None) -> str:
    """Return the name of a result's folder, see this module's page."""
    name = f"{kind}-{images.name}-{images.split.replace('+', '-')}-eps{eps_name(eps)}"
    if kind != "attack" or cascade is None:
        return name
    attack = cascade.attack
    steps = len(attack.sizes())
    return f"{name}-{type(attack).__name__.lower()}{steps}x{attack.restarts}-{attack.loss}"


def eps_name(eps: float) -> str:
    """Return eps for a file name: ``8-255`` where it is k / 255 exactly, else its digits."""
    levels = round(eps * 255)
    if 0 < levels < 255 and eps == levels / 255:
        return f"{levels}-255"
    return repr(float(eps))


def run(
    job: Job,
    folder: Path,
    *,
    overwrite: bool = False,
    pool: Pool | None = None,
    retry: bool = False,
    on_start: Callable[[Sequence[Verdict]], None] | None = None,
    on_verdict: Callable[[Verdict], None] | None = None,
    on_stage: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Certify a job's images into ``folder`` and return the figures of its ``summary.json``.

    Parameters
    ----------
    job
        What to certify.
    folder
        New, or that of an earlier call for the same weights and settings.
    overwrite
        Discard what the folder holds of other weights or settings.
    pool
        Workers that share the images; this process alone writes the journal. None certifies here.
    retry
        Certify the images that are unknown again, under the job's time limit, which may be
        another than the folder's. See :func:`taut.api.retrying.again`.
    on_start
        Called with the verdicts that are there already and stay.
    on_verdict, on_stage
        As in :func:`taut.certify`; a pool tells of no stages.

    Raises
    ------
    RunError
        When the folder holds something else.

    """
    described, seed = job.describe(), job.cascade.seed
    if retry:
        described = retrying.under_held_limit(folder, described)
    hearing = _Listeners(on_start, on_verdict, on_stage)
    with open_folder(folder, job.kind, described, seed, overwrite=overwrite) as kept:
        try:
            with kept.journal({**described, "seed": seed}) as journal:
                figures = _decide(job, journal, pool, retry, hearing)
        except TautError:
            if _is_barren(folder):  # the corrected command shall find its place free
                _discard(folder)
            raise
        keys = ("data", "split", "model", "dtype", "weights")
        figures |= {key: described[key] for key in keys}
        if (folder / "summary.json").is_file():
            figures = _with_times_of(kept.read_summary(), figures)
        kept.write_summary(figures)
        return figures


@dataclass(frozen=True)
class _Listeners:
    on_start: Callable[[Sequence[Verdict]], None] | None
    on_verdict: Callable[[Verdict], None] | None
    on_stage: Callable[[str, int], None] | None


def _decide(
    job: Job, journal: Journal, pool: Pool | None, retry: bool, hearing: _Listeners
) -> dict[str, Any]:
    """Certify the images without a verdict into the journal; return the figures of all."""
    known = {v.index: v for v in journal.verdicts() if v.index < len(job.images)}
    tried, spent, begun = journal.tried(), 0.0, bool(known)
    for index, verdict in known.items():
        seconds = tried[index].seconds if index in tried else verdict.seconds
        spent += seconds if math.isfinite(seconds) else 0.0
    if retry:
        for index in retrying.again(known, tried, retrying.limit_of(journal), job.cascade.timeout):
            del known[index]
    if hearing.on_start is not None:
        hearing.on_start(list(known.values()))
    clock = _StageClock(hearing.on_stage)

    def settle(verdict: Verdict) -> None:
        if retry:
            verdict = journal.record_attempt(verdict, job.cascade.timeout)
        else:
            journal.record(verdict)
        if hearing.on_verdict is not None:
            hearing.on_verdict(verdict)

    began = time.perf_counter()
    todo = [i for i in range(len(job.images)) if i not in known]
    if pool is None:
        _certify(job, todo, settle, clock)
    elif todo:
        certify_with(pool, job.model, job.images, todo, job.eps, job.cascade, settle)
    seconds = time.perf_counter() - began + spent
    measured = {"stage_seconds": clock.stop()} if pool is None and not begun else {}
    verdicts = tuple(v for v in journal.verdicts() if v.index < len(job.images))
    result = Certification(verdicts, job.eps, seconds, job.cascade.stages)
    return {**_figures(job, result), **retrying.figures(journal, len(job.images)), **measured}


def _with_times_of(earlier: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Keep the times that were measured where a call found everything decided already."""
    times = ("seconds", "images_per_second", "stage_seconds")
    timeless = [
        {key: value for key, value in each.items() if key not in times}
        for each in (earlier, figures)
    ]
    if "stage_seconds" in figures or timeless[0] != timeless[1]:
        return figures
    return {**figures, **{key: earlier[key] for key in times if key in earlier}}


def _certify(
    job: Job, todo: list[int], settle: Callable[[Verdict], None], clock: _StageClock
) -> None:
    """Certify the images that have no verdict yet."""
    if not todo:
        return
    chosen = job.images[torch.tensor(todo)]
    x, y = chosen.pixels(), chosen.labels
    certify(
        job.model, x, y, job.eps,
        cascade=job.cascade, indices=todo, on_verdict=settle, on_stage=clock,
    )  # fmt: skip


def open_folder(
    folder: Path, kind: str, described: Mapping[str, Any], seed: int, *, overwrite: bool
) -> RunFolder:
    """Open a result's folder for writing; make it where there is none.

    Raises
    ------
    RunError
        When it holds another kind of run or other files, or the same kind for other weights or
        settings and ``overwrite`` is not set.

    """
    if (folder / "config.json").is_file():
        held = RunFolder.open(folder)
        if held.kind != kind:
            raise RunError(
                f"{folder} holds a run of `taut {held.kind}`, not of `taut {kind}`; choose "
                "another --out"
            )
        changed = _difference({**held.recipe, "seed": held.seed}, {**described, "seed": seed})
        overwrite = overwrite or _is_barren(folder)
        if changed is not None and not overwrite:
            hint = retrying.hint({**held.recipe, "seed": held.seed}, {**described, "seed": seed})
            raise RunError(
                f"{folder} holds results of {changed}; {hint}choose another --out, or discard "
                "them with --overwrite"
            )
        if overwrite:
            with RunFolder.open(folder, kind, write=True):
                _discard(folder)
    return RunFolder.create(folder, kind, described, seed, exist_ok_same=True)


def _is_barren(folder: Path) -> bool:
    """Tell whether a command ended before it came to anything, by an error or otherwise."""
    if (folder / "summary.json").is_file():
        return False
    path = folder / "journal.sqlite"
    if not path.is_file():
        return True
    with Journal(path) as journal:
        return not journal.done()


def _discard(folder: Path) -> None:
    """Delete what a result's folder holds, and the folder where nothing else is in it."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Say in a few words in what a folder's results differ from the wanted ones."""
    if held.get("weights") != wanted.get("weights"):
        return "other weights"
    for key in sorted({*held, *wanted}):
        if (found := difference(held.get(key), wanted.get(key), key)) is not None:
            return f"other settings ({found})"
    return None


class _StageClock:
    """Adds up the wall time of each stage; passes on what it hears."""

    def __init__(self, then: Callable[[str, int], None] | None) -> None:
        self._then = then
        self._seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._began = 0.0

    def __call__(self, stage: str, count: int) -> None:
        self.stop()
        self._stage, self._began = stage, time.perf_counter()
        if self._then is not None:
            self._then(stage, count)

    def stop(self) -> dict[str, float]:
        """End the stage that runs; return the seconds of all."""
        if self._stage is not None:
            spent = time.perf_counter() - self._began
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + spent
            self._stage = None
        return dict(self._seconds)


def _figures(job: Job, result: Certification) -> dict[str, Any]:
    figures = result.summary()
    if "attack" not in job.cascade.stages:
        figures["attacked_accuracy"] = None
    if job.kind == "attack":  # nothing tried to prove anything
        figures["certified_accuracy"] = None
        del figures["certified_interval"]
    speed = result.images / result.seconds if result.seconds > 0 else None
    grid = cells_of(job.model)
    if grid is not None:
        natural, reach = result.natural_accuracy, job.cascade.data_range
        figures["cells"] = straddling.figures(grid, job.images, job.eps, reach, natural)
    return {"kind": job.kind, **figures, "images_per_second": speed}


def write_figures(folder: Path, kind: str, figures: Mapping[str, Any]) -> None:
    """Write the ``summary.json`` of a folder without a journal; an earlier one is replaced.

    Raises
    ------
    RunError
        When the folder holds another kind of run, or other files.

    """
    what = {key: figures[key] for key in ("model", "data", "split", "eps")}
    with open_folder(folder, kind, what, 0, overwrite=True) as kept:
        kept.write_summary(figures)


def promote(run_path: Path, folder: Path, figures: Mapping[str, Any]) -> None:
    """Put a certification's figures into its run's ``summary.json``, with the folder's name."""
    with RunFolder.open(run_path, "train", write=True) as run_folder:
        run_folder.write_summary({**figures, "certification": folder.name})
