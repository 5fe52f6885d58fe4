"""The page: complete in itself, every section, all text escaped, written whole or not at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from sample_run import EVIL, Case

from taut.errors import RunError
from taut.report import ReportData, render, write
from taut.report.page import embed

SECTIONS = ["results", "meaning", "verdicts", "classes", "images", "training", "record"]
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Elements, attributes, text outside scripts, and whether the tags nest."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._open: list[str] = []
        self._script: str | None = None
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag == "script":
            self._script = dict(attrs).get("id") or f"script {len(self.scripts)}"
            self.scripts[self._script] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        elif self._open and self._open[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.elements if "id" in attrs]


@pytest.fixture(scope="module")
def source(case: Case) -> str:
    return render(case.data)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_nothing_is_loaded_from_anywhere(source: str, page: Page) -> None:
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    ours = source.replace(get_plotlyjs(), "")
    assert len(ours) < len(source) - 1_000_000
    assert not re.search(r"https?://", ours)
    assert not re.search(r"@import|url\(", ours)
    policy = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert len(policy) == 1
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")


def test_plotly_is_there_once(source: str) -> None:
    assert source.count(get_plotlyjs()[:200]) == 1


def test_every_section_is_there_in_order_and_no_id_twice(page: Page) -> None:
    assert [a["id"] for t, a in page.elements if t == "section"] == SECTIONS
    assert len(set(page.ids())) == len(page.ids())
    places = [a["data-figure"] for _, a in page.elements if "data-figure" in a]
    assert sorted(f"data-{p}" for p in places) == sorted(i for i in page.ids() if "data-" in i)
    links = [a["href"] for t, a in page.elements if t == "a"]
    assert links == [f"#{name}" for name in SECTIONS]


def test_headline_counts_shares_and_intervals_are_those_of_the_summary(page: Page) -> None:
    for words in (
        "For 60 of 100 images it is proved",
        "Natural accuracy 90.0 % 90 of 100 images 95 % interval 82.6 to 94.5 %",
        "Attacked accuracy 70.0 % 70 of 100 images 95 % interval 60.4 to 78.1 %",
        "Certified accuracy 60.0 % 60 of 100 images 95 % interval 50.2 to 69.1 %",
        "0.1 (25.5/255)",
        "mnist-5k, test split",
        "dm-small",
        "12.5 images per second",
    ):
        assert words in page.words.replace("\N{NARROW NO-BREAK SPACE}", " "), words


def test_scope_of_the_certificate_is_said_plainly(page: Page) -> None:
    for words in (
        "The bounds hold in real arithmetic",
        "Neither the rounding of that evaluation nor the rounding of the deployed network",
        "Quantised, pruned, converted",
        "within the pixel range [0, 1]",
        "The smallest margin proved here is",
    ):
        assert words in page.words, words


def test_record_holds_configuration_versions_weights_and_commands(page: Page) -> None:
    for words in ("taut certify runs/a --eps 0.1", "0123456789abcdef" * 4, "milestones [10, 11]",
                  "torch 2.13.0", "Training, 12 epochs", "recipe.train"):  # fmt: skip
        assert words in page.words, words


def test_gallery_shows_triples_of_images(case: Case, page: Page) -> None:
    images = [a for t, a in page.elements if t == "img"]
    # 20 counterexamples with three pictures each; 6 each of undecided, verified, misclassified
    assert len(images) == 20 * 3 + 6 * 3
    assert all((a["src"] or "").startswith("data:image/png;base64,") for a in images)
    assert all(a["class"] == "pixels" for a in images)
    assert sum((a["alt"] or "").startswith("counterexample") for a in images) == 20


def test_figures_json_is_intact(page: Page) -> None:
    decoded = {name: json.loads(text) for name, text in page.scripts.items() if "data-" in name}
    assert len(decoded) == 9
    bars = {t["name"]: t["x"][0] for t in decoded["data-accuracies"]["data"]}
    assert bars == {"natural": 90, "attacked": 70, "certified": 60}


def test_an_empty_run_says_what_is_missing_in_every_section(bare: ReportData) -> None:
    page = Page(render(bare))
    assert [a["id"] for t, a in page.elements if t == "section"] == SECTIONS
    for words in ("No accuracies", "No verdicts", "No figures by class", "No counterexamples",
                  "No training curves", "No configuration", "No versions", "No timings",
                  "No command lines", "has not been certified"):  # fmt: skip
        assert words in page.words, words
    assert not [a for _, a in page.elements if "data-figure" in a]
    assert len(render(bare)) < 100_000  # plotly is left out too


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metrics": []}, "No training curves"),
        ({"images": {}}, "made without the images"),
        ({"adversarial_predictions": None}, "No confusion of counterexamples"),
        ({"verdicts": []}, "from the run's summary alone"),
        ({"summary": {"eps": 0.1}}, "may be unfinished"),
        ({"commands": ()}, "No command lines"),
    ],
)
def test_a_missing_part_is_named(case: Case, change: dict[str, object], words: str) -> None:
    page = Page(render(replace(case.data, **change)))
    assert words in page.words
    assert [a["id"] for t, a in page.elements if t == "section"] == SECTIONS


def test_text_cannot_break_out(case: Case, page: Page) -> None:
    names = [f"{EVIL}{i}" for i in range(10)]
    verdicts = [replace(v, stage=EVIL, reason=EVIL) for v in case.data.verdicts]
    hostile = Page(
        render(
            replace(
                case.data,
                title=EVIL,
                class_names=names,
                verdicts=verdicts,
                summary={"eps": 0.1, "images": 100, "data": EVIL},
                config={EVIL: {EVIL: EVIL}, "recipe": {EVIL: [EVIL]}, "versions": {EVIL: EVIL}},
                metrics=[{**m, "loss": {EVIL: 1.0}} for m in case.data.metrics],
                commands=[EVIL],
                weights_sha256=EVIL,
            )
        )
    )
    assert len(hostile.scripts) == len(page.scripts)
    images = [a for t, a in hostile.elements if t == "img"]
    assert images
    assert all((a["src"] or "").startswith("data:") and "onerror" not in a for a in images)
    assert hostile.words.count(EVIL) > 20
    for name, text in hostile.scripts.items():
        if name.startswith("data-"):
            assert json.loads(text)
            assert "<" not in text


def test_embedded_json_keeps_its_value() -> None:
    value = {"a": "</script>&<!--\u2028\u2029", "b": [1, None]}
    text = embed(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_the_same_data_give_the_same_page(case: Case, source: str) -> None:
    assert render(case.data) == source


def test_many_classes_fold_away_and_large_lists_are_cut(case: Case) -> None:
    verdicts = [replace(v, index=i + 100 * k, label=(v.label + 10 * k) % 60,
                        predicted=(v.predicted + 10 * k) % 60)
                for k in range(15) for i, v in enumerate(case.data.verdicts)]  # fmt: skip
    pairs = {v.index: v.label + 1 for v in verdicts if v.counterexample is not None}
    page = Page(render(replace(case.data, verdicts=verdicts, class_names=None, images={},
                               adversarial_predictions=pairs,
                               summary={"eps": 0.1})))  # fmt: skip
    assert "Accuracy of the 60 classes" in page.words
    assert "figure-confusion" not in page.ids()
    assert "Most frequent confusions" in page.words
    assert "The 600 images that are not certified The first 500" in page.words


def test_write_replaces_the_file_at_once(case: Case, source: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    contradiction = replace(case.data, summary={**case.data.summary, "certified_accuracy": 0.1})
    with pytest.raises(RunError):
        write(contradiction, path)
    assert path.read_text() == "before"
    assert write(case.data, path) == path
    assert path.read_text(encoding="utf-8") == source
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_write_into_a_missing_folder_says_so(case: Case, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        write(case.data, tmp_path / "nowhere" / "report.html")
