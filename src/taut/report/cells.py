"""The section on a grid of cells: errors side by side, straddling pixels, pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taut.errors import RunError
from taut.report import gallery, png, text
from taut.report.counts import Share, is_natural
from taut.report.data import ReportData

if TYPE_CHECKING:
    from taut.verify.verdict import Verdict

BROKEN, OTHERS = 3, 2
"""Most counterexamples whose flips are shown, and most images of every other kind."""

MOST_EDGES = 12
"""Most edges that are written out."""

_ERRORS = {
    "natural": ("Clean error", "wrong on the image itself"),
    "attacked": ("Attacked error", "wrong on the image or on one that the attack found within eps"),
    "certified": ("Soundly verified error", "not proved for all images within eps"),
}


@dataclass(frozen=True)
class Error:
    """One of the errors that stand side by side."""

    kind: str
    name: str
    gloss: str
    share: Share


@dataclass(frozen=True)
class Tile:
    """One image with its cells; pictures are data URIs, counts are of straddling values."""

    index: int
    label: str
    status: str
    stage: str
    small: bool
    image: str
    levels: str
    straddling: str
    count: int
    flipped: str | None = None
    up: int = 0
    down: int = 0
    adversarial_class: str | None = None


def chosen(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Pick from the gallery: the first counterexamples, then undecided and verified images."""
    picked = gallery.choose(verdicts)
    others = (*picked.undecided[:OTHERS], *picked.verified[:OTHERS])
    natural = [v for v in picked.broken if is_natural(v)]
    return [*natural[:BROKEN], *others]


def section(data: ReportData, shares: Mapping[str, Share]) -> dict[str, Any] | None:
    """What the section shows; None for a network without cells, or a run without a summary."""
    told = data.summary.get("cells")
    if not isinstance(told, Mapping) or "natural" not in shares:
        return None
    errors = [
        Error(kind, *_ERRORS[kind], Share(share.total - share.count, share.total))
        for kind, share in shares.items()
    ]
    by_kind = {error.kind: error.share for error in errors}
    beyond = by_kind.get("attacked")
    drawn = [tile(data, v) for v in chosen(data.verdicts) if v.index in data.cells]
    grid, eps = told["grid"], data.summary.get("eps")
    even = grid["emit"] == "ends" and isinstance(grid.get("n"), int) and not grid.get("offset")
    defined = even and isinstance(eps, int | float) and 2 * eps * grid["n"] <= 1 + 1e-9
    return {
        "published": defined,
        "errors": errors,
        "cell": shares["natural"],
        "cell_error": by_kind["natural"],
        "beyond": beyond if beyond and beyond.count > by_kind["natural"].count else None,
        "facts": _facts(told, shares["natural"].total),
        "flipped": [t for t in drawn if t.flipped is not None],
        "others": [t for t in drawn if t.flipped is None],
    }


def _facts(told: Mapping[str, Any], images: int) -> list[tuple[str, str]]:
    grid, pixels = told["grid"], int(told["pixels"])
    emitted = "both ends of the cell" if grid["emit"] == "ends" else "one value per cell"
    mean, most = told["straddling_mean"], told["straddling_most"]
    return [
        ("Grid", grid_words(grid)),
        ("Handed on", emitted),
        ("Straddling", f"{text.percent(told['straddling_share'], 1001)} of all pixel values"),
        ("Per image", f"{text.number(mean, 3)} of {text.integer(pixels)} on average, "
                      f"{text.integer(most)} at most"),
        ("Images without any", f"{text.integer(told['without_straddling'])} of "
                               f"{text.integer(images)}"),
    ]  # fmt: skip


def grid_words(grid: Mapping[str, Any]) -> str:
    """Say in a few words what grid a network has."""
    kind = "learned " if grid.get("learn") else ""
    edges = grid.get("thresholds")
    if edges is not None:
        if not edges:
            return "1 cell along a pixel's range"
        if isinstance(edges[0], list | tuple):
            return f"{len(edges[0]) + 1} cells along a pixel's range, {kind}edges by channel"
        shown = ", ".join(text.number(edge, 3) for edge in edges[:MOST_EDGES])
        more = ", …" if len(edges) > MOST_EDGES else ""
        return f"{len(edges) + 1} cells along a pixel's range, {kind}edges {shown}{more}"
    n, offset = grid["n"], grid["offset"]
    many = ", ".join(map(str, n)) if isinstance(n, list | tuple) else str(n)
    begins = f", beginning {text.number(offset, 3)} of a cell later" if offset else ""
    words = "cell" if n == 1 else "cells"
    return f"{many} even {words} along a pixel's range{begins}"


def check(data: ReportData) -> None:
    """Refuse cells that contradict the images, the verdicts or the summary.

    Raises
    ------
    RunError
        When a view has another shape than its image; more pixels straddle than the summary
        counts; a counterexample flips a pixel that does not straddle, or flips none although
        its image is classified correctly.

    """
    told = data.summary.get("cells")
    most = told["straddling_most"] if isinstance(told, Mapping) else None
    by_index = {v.index: v for v in data.verdicts}
    for index, view in data.cells.items():
        shape = np.asarray(data.images[index]).shape if index in data.images else None
        parts = [view.levels, view.straddling] + ([] if view.moved is None else [view.moved])
        if any(part.shape != shape for part in parts):
            raise RunError(
                f"the cells of image {index} do not have its shape {shape}; make the report "
                "with the data set that was certified"
            )
        flaw = None
        if most is not None and int(view.straddling.sum()) > most:
            flaw = f"{int(view.straddling.sum())} pixels straddle and summary.json says {most}"
        if view.moved is not None and (view.moved.astype(bool) & ~view.straddling).any():
            flaw = "its counterexample flips a pixel that does not straddle"
        verdict = by_index.get(index)
        if view.moved is not None and verdict and is_natural(verdict) and not view.moved.any():
            flaw = "its counterexample lies in the same cells"
        if flaw is not None:
            raise RunError(
                f"image {index} does not fit the grid of summary.json ({flaw}); certify this "
                "run again"
            )


def tile(data: ReportData, verdict: Verdict) -> Tile:
    """The tile of one verdict whose image and cells are there."""
    image, view = np.asarray(data.images[verdict.index]), data.cells[verdict.index]
    flipped, up, down = None, 0, 0
    if view.moved is not None:
        up, down = int((view.moved > 0).sum()), int((view.moved < 0).sum())
        flipped = png.data_uri(png.marked(view.levels, *_directions(view.moved)))
    where = np.any(view.straddling, axis=0, keepdims=True)[0]
    predicted = (data.adversarial_predictions or {}).get(verdict.index)
    return Tile(
        index=verdict.index,
        label=data.class_name(verdict.label),
        status=str(verdict.status),
        stage=verdict.stage,
        small=max(image.shape[1:]) <= 128,
        image=png.data_uri(png.picture(image)),
        levels=png.data_uri(png.picture(view.levels)),
        straddling=png.data_uri(png.marked(view.levels, where)),
        count=int(view.straddling.sum()),
        flipped=flipped,
        up=up,
        down=down,
        adversarial_class=None if predicted is None else data.class_name(predicted),
    )


def _directions(moved: NDArray[np.integer]) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """Where any channel moved, and the sign of all its channels together."""
    return np.any(moved, axis=0, keepdims=True)[0], np.sign(moved.sum(axis=0))
