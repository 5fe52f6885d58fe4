"""What a report is made of, and the checks that its parts agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taut.errors import RunError
from taut.report import counts

if TYPE_CHECKING:
    from taut.verify.verdict import Verdict

Image = NDArray[np.floating]

_DISTANCE_SLACK = 1e-6
"""float32 rounding of ``x + eps`` for pixels in [0, 1] stays below 1.2e-7; this is generous."""


@dataclass(frozen=True)
class CellView:
    """An image as a network sees it that begins with a grid of cells.

    Parameters
    ----------
    levels
        Its cells ``(C, H, W)``, from 0 (the first) to 1 (the last).
    straddling
        Which values eps lets into another cell, ``(C, H, W)``.
    moved
        By how many cells the counterexample moved each value, ``(C, H, W)``; None without one.

    """

    levels: Image
    straddling: NDArray[np.bool_]
    moved: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows, as plain data.

    Every part may be empty; the section that would show it then says so.

    Parameters
    ----------
    title
        Heading of the report.
    config
        The run's ``config.json``; under ``certification`` also what the journal was written for.
    metrics
        The lines of ``metrics.jsonl``, one mapping per epoch.
    summary
        The run's ``summary.json``: accuracies as fractions, ``eps`` in pixel units of [0, 1],
        ``seconds`` of wall time. Optional keys that the report knows: ``stage_seconds``
        ({stage: seconds}), ``images_per_second``, ``data``, ``split``, ``model``, ``dtype``,
        ``cells``.
    verdicts
        The journal, one verdict per image.
    images
        Index in the split -> image ``(C, H, W)`` in [0, 1], for the gallery.
    cells
        Index in the split -> cells of the image, for a network that begins with a grid of them.
    class_names
        Names by label; numbers are shown where it is None or too short.
    adversarial_predictions
        Index -> class that the network gives to the counterexample.
    commands
        Command lines that make this run again, in order.
    weights_sha256
        SHA-256 of the weights (:func:`taut.store.hash_weights`), in hexadecimal.

    """

    title: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    images: Mapping[int, Image] = field(default_factory=dict)
    cells: Mapping[int, CellView] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    adversarial_predictions: Mapping[int, int] | None = None
    commands: Sequence[str] = ()
    weights_sha256: str | None = None

    def class_name(self, label: int) -> str:
        """Name of a class, or its number; ``none`` where the network gave none (below 0)."""
        if label < 0:
            return "none"
        names = self.class_names
        return names[label] if names is not None and label < len(names) else str(label)

    @property
    def eps(self) -> float | None:
        """Radius of the region in pixel units, None when the summary does not name one."""
        value = self.summary.get("eps")
        return float(value) if isinstance(value, int | float) else None


def counterexample(verdict: Verdict) -> Image | None:
    """The verdict's counterexample as an array, without its autograd or device."""
    tensor = verdict.counterexample
    return None if tensor is None else np.asarray(tensor.detach().cpu().numpy())


def check(data: ReportData) -> None:
    """Refuse parts that contradict each other: a report must not show two truths.

    Raises
    ------
    RunError
        When summary and verdicts disagree; an index occurs twice; a misclassified image is
        verified; an image or its counterexample is malformed, or the counterexample lies
        outside the region; an adversarial prediction equals the label.

    """
    _check_counts(data)
    for verdict in data.verdicts:
        other = counterexample(verdict)
        image = data.images.get(verdict.index)
        if image is not None:
            _check_image(verdict.index, np.asarray(image))
        if image is not None and other is not None:
            _check_distance(verdict.index, np.asarray(image), other, data.eps)
        predicted = (data.adversarial_predictions or {}).get(verdict.index)
        if predicted is not None and other is not None and int(predicted) == verdict.label:
            raise RunError(
                f"the counterexample of image {verdict.index} is classified as its label "
                f"{verdict.label}: the predictions come from other weights than the verdicts; "
                "certify this run again"
            )


def _check_counts(data: ReportData) -> None:
    if not data.verdicts:
        return
    if len({v.index for v in data.verdicts}) != len(data.verdicts):
        raise RunError("the journal holds two verdicts of one image; certify this run again")
    for verdict in data.verdicts:
        if counts.is_certified(verdict) and not counts.is_natural(verdict):
            raise RunError(
                f"image {verdict.index} is misclassified yet has the verdict 'verified': the "
                "journal is damaged; certify this run again"
            )
    told = counts.summary_shares(data.summary)
    for name, share in counts.shares(data.verdicts).items():
        if name in told and told[name] != share:
            raise RunError(
                f"summary.json says {name} {told[name].count} of {told[name].total}, the journal "
                f"says {share.count} of {share.total}; finish or repeat the certification "
                "with 'taut certify', then make the report again"
            )
    _check_stages(data)


def _check_stages(data: ReportData) -> None:
    told = {row.name: row for row in counts.summary_stages(data.summary)}
    rows = counts.stages(data.verdicts, seconds={}, also=list(told))
    for row in rows if told else ():
        if replace(row, seconds=None) != told.get(row.name):
            raise RunError(
                f"summary.json and the journal disagree on the verdicts of stage {row.name!r}; "
                "repeat the certification with 'taut certify', then make the report again"
            )


def _check_image(index: int, image: Image) -> None:
    if image.ndim != 3 or not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise RunError(
            f"image {index} must be (channels, height, width) with values in [0, 1], got shape "
            f"{tuple(image.shape)}; pass images before normalisation"
        )


def _check_distance(index: int, image: Image, other: Image, eps: float | None) -> None:
    if other.shape != image.shape:
        raise RunError(
            f"image {index} has shape {tuple(image.shape)} but its counterexample "
            f"{tuple(other.shape)}; make the report with the data set that was certified"
        )
    far = float(np.abs(other.astype(np.float64) - image.astype(np.float64)).max())
    outside = not (np.isfinite(other).all() and other.min() >= 0 and other.max() <= 1)
    if outside or (eps is not None and not far <= eps + _DISTANCE_SLACK):
        raise RunError(
            f"the counterexample of image {index} lies outside the region (distance {far:.6g}, "
            f"eps {eps}); make the report with the data set and split that were certified"
        )
