"""A report's data from a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taut.errors import RunError
from taut.report import facts, text
from taut.report.data import Image, ReportData, counterexample
from taut.report.gallery import choose

if TYPE_CHECKING:
    from taut.store import RunFolder
    from taut.verify.verdict import Verdict

CHUNK = 256
"""Counterexamples classified at a time."""


def collect(
    run: RunFolder,
    *,
    title: str | None = None,
    images: Callable[[Sequence[int]], NDArray[np.floating]] | None = None,
    classify: Callable[[NDArray[np.floating]], NDArray[np.integer]] | None = None,
    class_names: Sequence[str] | None = None,
    commands: Sequence[str] = (),
) -> ReportData:
    """Read what a run folder holds; whatever is not there stays empty.

    Parameters
    ----------
    run
        The folder, open for reading.
    title
        Heading; the network, data set and eps where it is None.
    images
        Gives the images of some positions in the certified split, ``(N, C, H, W)`` in [0, 1];
        asked only for those the gallery shows. None, or inputs of another shape: no gallery.
    classify
        Gives the classes ``(N,)`` of images ``(N, C, H, W)``, as the certified network sees
        them; asked for the counterexamples. None: their classes stay unnamed.
    class_names
        Names by label.
    commands
        Command lines that make the run again.

    Raises
    ------
    RunError
        When a file is damaged, the journal is of another eps than ``summary.json``, or
        ``images`` gives another number of images than it was asked for.

    """
    config: dict[str, Any] = dict(run.config)
    summary = run.read_summary() if (run.path / "summary.json").is_file() else {}
    meta, verdicts = _journal(run)
    if meta:
        config["certification"] = meta
        summary = _with_eps(summary, float(meta["eps"]))
    return ReportData(
        title=title if title is not None else _title(config, summary, run.path.name),
        config=config,
        metrics=run.read_metrics(),
        summary=summary,
        verdicts=verdicts,
        images={} if images is None else _images(verdicts, images),
        class_names=class_names,
        adversarial_predictions=None if classify is None else _classes(verdicts, classify),
        commands=tuple(commands),
        weights_sha256=_weights(run, meta),
    )


def _journal(run: RunFolder) -> tuple[dict[str, Any], list[Verdict]]:
    if not (run.path / "journal.sqlite").is_file():
        return {}, []
    with run.journal() as journal:
        return journal.meta, journal.verdicts()


def _with_eps(summary: Mapping[str, Any], eps: float) -> dict[str, Any]:
    told = summary.get("eps", eps)
    if told != eps:
        raise RunError(
            f"summary.json is for eps {told} and the journal for eps {eps}; finish the "
            "certification with 'taut certify', then make the report again"
        )
    return {**summary, "eps": eps}


def _title(config: Mapping[str, Any], summary: Mapping[str, Any], fallback: str) -> str:
    """``model on data, eps e``, else the recipe's title, else the folder's name."""
    probe = ReportData("", config, [], summary, [])
    model, data = facts.model(probe), facts.data_set(probe)
    if model is None or data is None:
        return str(facts.find(probe, "recipe.title") or fallback)
    radius = "" if probe.eps is None else f", eps {text.radius(probe.eps)}"
    return f"{model} on {data}{radius}"


def _images(
    verdicts: Sequence[Verdict], images: Callable[[Sequence[int]], NDArray[np.floating]]
) -> dict[int, Image]:
    wanted = choose(verdicts).indices
    if not wanted:
        return {}
    found = np.asarray(images(wanted))
    if len(found) != len(wanted):
        raise RunError(f"the data set gave {len(found)} images where {len(wanted)} were asked for")
    if found.ndim != 4:  # inputs that are no pictures have no gallery
        return {}
    return dict(zip(wanted, found, strict=True))


def _classes(
    verdicts: Sequence[Verdict], classify: Callable[[NDArray[np.floating]], NDArray[np.integer]]
) -> dict[int, int]:
    broken = [(v.index, other) for v in verdicts if (other := counterexample(v)) is not None]
    classes: dict[int, int] = {}
    for start in range(0, len(broken), CHUNK):
        part = broken[start : start + CHUNK]
        given = classify(np.stack([other for _, other in part]))
        classes |= {index: int(c) for (index, _), c in zip(part, given, strict=True)}
    return classes


def _weights(run: RunFolder, meta: Mapping[str, Any]) -> str | None:
    """The hash the verdicts were given for, else that of the run's weights."""
    if meta:
        return str(meta["weights"])
    path = run.path / "model.safetensors"
    if not path.is_file():
        return None
    from taut.store import hash_weights, read_weights

    return hash_weights(read_weights(path))
