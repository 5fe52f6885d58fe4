"""The section on cells: errors side by side, what straddles, pictures of it, contradictions."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cell_run import cells_of, on_cells, straddling
from sample_run import EVIL, Case
from test_report_page import SECTIONS, Page

from taut.errors import RunError
from taut.report import ReportData, png, render
from taut.report.cells import chosen, grid_words, section
from taut.report.context import headline
from taut.report.counts import Share

VIOLET, RED, BLUE = (122, 90, 166), (178, 24, 43), (33, 102, 172)


@pytest.fixture(scope="module")
def data(case: Case) -> ReportData:
    return on_cells(case)


@pytest.fixture(scope="module")
def source(data: ReportData) -> str:
    return render(data)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def pixels(uri: str) -> np.ndarray:
    """The colours of an image that a page holds."""
    content, parts, place = base64.b64decode(uri.split(",")[1]), b"", 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        parts += body if kind == b"IDAT" else b""
        place += length + 12
    rows = np.frombuffer(zlib.decompress(parts), np.uint8).reshape(28, -1)[:, 1:]
    return rows.reshape(28, 28, -1)


def painted(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    found: np.ndarray = (picture == np.array(colour)).all(axis=2)
    return found


def plain(page: Page) -> str:
    return page.words.replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_errors_stand_side_by_side_with_their_intervals(page: Page, data: ReportData) -> None:
    shown = plain(page)
    # 90 natural, 70 attacked, 60 certified of 100: the errors are the rest
    places = []
    for name, count in (("Clean", 10), ("Attacked", 30), ("Soundly verified", 40)):
        low, high = Share(count, 100).interval
        words = (
            f"{name} error {count}.0 % {count} of 100 images "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        )
        assert words in shown, words
        places.append(shown.index(words))
    assert places == sorted(places)
    found = section(data, headline(data))
    assert found is not None
    clean, attacked, verified = (error.share for error in found["errors"])
    natural = headline(data)["natural"]
    assert clean.value <= attacked.value <= verified.value
    assert [1 - e for e in natural.interval[::-1]] == pytest.approx(clean.interval)


def test_the_published_number_stands_beside_them_with_what_it_means(page: Page) -> None:
    shown = plain(page)
    for words in (
        "Cell accuracy, as published 90.0 % 90 of 100 images, an error of 10.0 %",
        "calls the cell accuracy verified, but it is the accuracy on unperturbed images "
        "and does not bound what an adversary can do",
        "here the attack alone reaches an error of 30.0 %",
        "with eps quoted for pixels in [\N{MINUS SIGN}1, 1] it is besides compared at half the "
        "radius of others: 0.2 there is 0.1 on this page.",
    ):
        assert words in shown, words


def test_what_straddles_is_counted(page: Page, case: Case) -> None:
    counts = [int(straddling(image).sum()) for image in case.images]
    shown = plain(page)
    for words in (
        f"Straddling {100 * sum(counts) / 78_400:.2f} % of all pixel values",
        f"Per image {sum(counts) / 100:.3g} of 784 on average, {max(counts)} at most",
        f"Images without any {counts.count(0)} of 100",
        "5 even cells along a pixel's range",
        "both ends of the cell",
    ):
        assert words in shown, words


def test_pictures_mark_the_pixels_that_straddle_and_those_that_were_flipped(
    page: Page, data: ReportData
) -> None:
    images = {a["alt"]: a["src"] for t, a in page.elements if t == "img" and a["alt"]}
    picked = chosen(data.verdicts)
    assert len(picked) == 7  # three counterexamples, two undecided, two verified
    for v in picked:
        image, marked = data.images[v.index], straddling(data.images[v.index])
        shown = images[f"image {v.index} with its {int(marked.sum())} straddling values marked"]
        assert np.array_equal(painted(pixels(shown or ""), VIOLET), marked[0])
        levels = pixels(images[f"cells of image {v.index}"] or "")[:, :, 0]
        assert np.array_equal(levels, np.rint(cells_of(image)[0] / 4 * 255))
        if v.counterexample is None:
            continue
        moved = cells_of(v.counterexample.numpy()) - cells_of(image)
        up, down = int((moved > 0).sum()), int((moved < 0).sum())
        assert up > 0 < down
        words = f"values that the counterexample to image {v.index} flipped: {up} up, {down} down"
        picture = pixels(images[words] or "")
        assert np.array_equal(painted(picture, RED), moved[0] > 0)
        assert np.array_equal(painted(picture, BLUE), moved[0] < 0)


def test_colour_images_are_marked_where_any_channel_is() -> None:
    image = np.zeros((3, 1, 4))
    where = np.array([[False, True, True, True]])
    sign = np.array([[0, 1, -1, 0]])
    picture = png.marked(image, where, sign)
    assert picture.shape == (1, 4, 3)
    assert [tuple(p) for p in picture[0]] == [(200, 200, 200), RED, BLUE, VIOLET]
    assert np.array_equal(png.marked(image, where)[0, 1:], [VIOLET] * 3)


def test_the_section_has_its_place_and_every_picture_its_words(page: Page, source: str) -> None:
    expected = [SECTIONS[0], "cells", *SECTIONS[1:]]
    assert [a["id"] for t, a in page.elements if t == "section"] == expected
    assert [a["href"] for t, a in page.elements if t == "a"] == [f"#{name}" for name in expected]
    words = [a["alt"] for t, a in page.elements if t == "img"]
    assert all(words)
    part = source[source.index('<section id="cells">') : source.index('<section id="meaning">')]
    assert part.count("<img") == 3 * 4 + 4 * 3
    assert len(re.findall(r'class="pixels"', part)) == part.count("<img")
    assert "http" not in part


def test_a_network_without_cells_has_no_such_section(case: Case) -> None:
    page = Page(render(case.data))
    assert "cells" not in page.ids()
    assert "Cells" not in page.words


@pytest.mark.parametrize(
    ("change", "words", "missing"),
    [
        ({"cells": {}}, "No straddling pixels are marked", "Counterexamples by their cells"),
        ({"verdicts": [], "images": {}, "cells": {}}, "Soundly verified error 40.0 %", "flipped"),
    ],
)
def test_a_missing_part_is_named(
    data: ReportData, change: dict[str, Any], words: str, missing: str
) -> None:
    page = Page(render(replace(data, **change)))
    assert words in plain(page)
    assert missing not in page.words


def test_an_attack_alone_verifies_nothing(data: ReportData) -> None:
    bare = {k: v for k, v in data.summary.items() if k not in ("certified_accuracy", "verdicts")}
    page = Page(render(replace(data, verdicts=[], images={}, cells={}, summary=bare)))
    assert "Attacked error" in page.words
    assert "Soundly verified" not in page.words


def test_class_names_cannot_break_out(data: ReportData) -> None:
    page = Page(render(replace(data, class_names=[EVIL] * 10)))
    images = [a for t, a in page.elements if t == "img"]
    assert sum(EVIL in (a["alt"] or "") for a in images) > 7
    assert all((a["src"] or "").startswith("data:") and "onerror" not in a for a in images)


def flipped_elsewhere(data: ReportData, index: int) -> ReportData:
    view = data.cells[index]
    assert view.moved is not None
    return with_view(data, index, moved=view.moved + ~view.straddling)


def with_view(data: ReportData, index: int, **change: Any) -> ReportData:
    return replace(data, cells={**data.cells, index: replace(data.cells[index], **change)})


def with_most(data: ReportData, index: int) -> ReportData:
    told = {**data.summary["cells"], "straddling_most": 1}
    return replace(data, summary={**data.summary, "cells": told})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flipped_elsewhere, "flips a pixel that does not straddle"),
        (with_most, "pixels straddle and summary.json says 1"),
        (lambda d, i: with_view(d, i, moved=0 * d.cells[i].straddling.astype(int)), "same cells"),
        (lambda d, i: with_view(d, i, levels=np.zeros((1, 2, 2))), "do not have its shape"),
        (lambda d, i: with_view(d, i, moved=np.zeros((3, 28, 28), int)), "do not have its shape"),
        (lambda d, i: replace(d, images={}), "do not have its shape"),
    ],
)
def test_contradictions_are_refused(
    data: ReportData, change: Callable[[ReportData, int], ReportData], words: str
) -> None:
    first = next(v.index for v in data.verdicts if v.counterexample is not None)
    with pytest.raises(RunError, match=words):
        render(change(data, first))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"n": 1, "offset": 0.0}, "1 even cell along"),
        ({"n": 4, "offset": 0.25}, "range, beginning 0.25 of a cell later"),
        ({"n": [2, 3, 4], "offset": 0.0}, "2, 3, 4 even cells"),
        ({"thresholds": [0.25, 0.5]}, "3 cells along a pixel's range, edges 0.25, 0.5"),
        ({"thresholds": [0.5], "learn": True}, "2 cells along a pixel's range, learned edges 0.5"),
        ({"thresholds": [[0.1, 0.2], [0.3, 0.4]]}, "3 cells along a pixel's range, edges by chann"),
        ({"thresholds": [k / 50 for k in range(1, 50)]}, "0.24, …"),
    ],
)
def test_grids_in_words(grid: dict[str, Any], words: str) -> None:
    assert words in grid_words({"emit": "levels", **grid})
