"""What pages say of files, names, tables and formats is so."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import generate
import pytest
import torch
from docs_pages import PAGES, ROOT, blocks, prose

import taut
from taut.bounds import METHODS as BOUNDING
from taut.bounds import Backward
from taut.data import ImageSet
from taut.operators import LINES, ReLU
from taut.store import RunFolder
from taut.store.journal import JOURNAL_FORMAT, META_REQUIRED, Journal
from taut.store.summary import REQUIRED
from taut.training import METHODS, EpsRamp, GridPoint
from taut.training.choose import AXES
from taut.training.recipe import SECTIONS
from taut.verify import Cascade, Status
from taut.verify.complete import COMPLETE_STAGES

DOCS = ROOT / "docs"
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and mkdocs make it."""
    text = re.sub(r"[^\w\s-]", "", heading.replace("`", "").strip().lower())
    return re.sub(r"\s", "-", text)


def anchors(text: str) -> set[str]:
    return {anchor(match) for match in re.findall(r"^#+ (.+)$", text, re.M)}


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if fragment:
            content = found.read_text(encoding="utf-8")
            for included in re.findall(r'--8<-- "(.+)"', content):
                content += (ROOT / included).read_text(encoding="utf-8")
            assert fragment in anchors(content), target


@EVERY_PAGE
def test_files_and_names_that_are_mentioned_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(r"(src|tests|docs|benchmarks|results|\.ci)/[\w./-]*", code):
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"taut(\.\w+)+(\(.*\))?", code):
            first, *parts = code.split("(")[0].split(".")
            found = importlib.import_module(first)
            module = first
            for part in parts:
                module = f"{module}.{part}"
                try:  # a subpackage first: `taut.bounds` is a function as well
                    found = importlib.import_module(module)
                except ModuleNotFoundError:
                    found = getattr(found, part)
        elif re.fullmatch(r"[A-Z][\w]+\.(md|toml)|Makefile|LICENSE|constraints\.txt", code):
            assert (ROOT / code).exists(), code


@EVERY_PAGE
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.renewed(text) == text, "run `python docs/generate.py`"


def test_a_stale_table_is_noticed() -> None:
    text = page("methods.md")
    assert "crown-ibp" in text
    stale = text.replace("one CROWN pass", "two CROWN passes")
    assert stale != text
    assert generate.renewed(stale) == text
    with pytest.raises(KeyError):
        generate.renewed("<!-- generated: no-such-table -->\n<!-- end -->")


def test_nothing_is_left_to_do() -> None:
    for path in PAGES:
        assert not re.search(r"TODO|FIXME|XXX", path.read_text(encoding="utf-8")), path.name


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {path.name for path in DOCS.glob("*.md")}


def test_every_public_name_is_in_the_api() -> None:
    shown = set(re.findall(r"heading: taut\.(\w+)", page("api.md")))
    documented = shown | {"TautError", "__version__"}  # errors have a section of their own
    assert documented == set(taut.__all__)
    for path in re.findall(r"^::: ([\w.]+)$", page("api.md"), re.M):
        module, _, name = path.rpartition(".")
        if path != "taut.errors":
            assert hasattr(importlib.import_module(module), name), path


def test_every_key_of_a_recipe_is_described() -> None:
    for cls in SECTIONS.values():
        said = generate.parameters(cls)
        for field in dataclasses.fields(cls):
            if cls.__name__ != "MethodSection":
                assert said[field.name], f"{cls.__name__}.{field.name} has no description"
    known = {f"{s}.{f.name}" for s, cls in SECTIONS.items() for f in dataclasses.fields(cls)}
    for entry in METHODS.values():
        parts = [entry.method]
        if isinstance(entry.method, GridPoint):
            parts = [getattr(entry.method, axis) for axis in AXES]
        known |= {f"method.{f.name}" for part in parts for f in dataclasses.fields(part)}
    assert set(generate.UNITS) <= known


def test_the_table_of_conventions_is_what_the_ramp_does() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| (\d) \| (.+) \| (.+) \|$",
        page("recipes.md").split("## `[schedule]`")[1],
        re.M,
    )
    assert {row[0] for row in rows} == {"crown-ibp", "auto-lirpa", "sabr", "ctbench"}
    for name, first, begin, end in rows:
        start, length, steps = int(first) + 3, 7, 11
        values = {"start": start, "length": length, "S": steps}
        ramp = EpsRamp(start=start, length=length, convention=name)
        told = tuple(eval(re.sub(r"(\w|\)) S", r"\1 * S", text), values) for text in (begin, end))
        assert ramp.ends(steps) == told
        with pytest.raises(taut.TautError):
            EpsRamp(start=int(first) - 1, length=length, convention=name)


def test_the_rooms_of_the_architecture_are_those_of_the_source() -> None:
    (tree,) = [b for b in blocks(DOCS / "architecture.md", "text") if b.text.startswith("src/taut")]
    rooms = set(re.findall(r"^  (\w+(?:/|\.py)) ", tree.text, re.M))
    source = ROOT / "src" / "taut"
    kinds = {".py", ".toml"}
    found = {f"{p.parent.name}/" for p in source.glob("*/[!.]*") if p.suffix in kinds}
    found |= {p.name for p in source.glob("*.py") if not p.name.startswith("_")}
    assert rooms == found
    others = set(re.findall(r"^(\w+/) ", tree.text, re.M))
    assert all((ROOT / name).is_dir() for name in others)


def test_the_rooms_import_one_way() -> None:
    """The order of the architecture page holds; what a function imports late counts too."""
    texts = [block.text.strip() for block in blocks(DOCS / "architecture.md", "text")]
    (order,) = [text.split(" -> ") for text in texts if text.startswith("data -> ")]
    assert order[-1] == "cli"
    source = ROOT / "src" / "taut"
    for place, room in enumerate(order):
        files = list((source / room).rglob("*.py")) or [source / f"{room}.py"]
        later = [re.escape(name) for name in order[place + 1 :]]
        if room in ("training", "verify"):
            later.append({"training": "verify", "verify": "training"}[room])
        for file in files if later else []:
            text = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", file.read_text())
            wrong = re.search(rf"^\s*(?:from|import) taut\.({'|'.join(later)})\b", text, re.M)
            assert wrong is None, f"{file.relative_to(source)} imports {wrong and wrong[1]}"


def test_the_rooms_beside_the_row_stand_on_what_the_page_says() -> None:
    """Exactly on that: a room that is no longer needed fails as well as a new one."""
    source = ROOT / "src" / "taut"
    row = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", re.M)
    rows = row.findall(page("architecture.md").split("| room | stands on |")[1].split("## ")[0])
    assert {name for name, _, _ in rows} == {"models", "formats", "attacks", "training"}
    rooms = {path.name for path in source.iterdir() if path.is_dir() and path.name != "recipes"}

    def stands_on(room: str) -> set[str]:
        text = "\n".join(file.read_text() for file in (source / room).rglob("*.py"))
        found = re.findall(r"^\s*(?:from|import) taut\.(\w+)", text, re.M)
        return set(found) - {room, "errors", "_version"}

    for room, below, above in rows:
        assert stands_on(room) == set(re.findall(r"`(\w+)`", below)), room
        readers = {name for name in rooms - {room} if room in stands_on(name)}
        assert readers == set(re.findall(r"`(\w+)`", above)), room


def test_the_files_of_the_bounds_are_those_of_the_page() -> None:
    section = page("architecture.md").split("### Inside `bounds`")[1].split("### ")[0]
    told = set(re.findall(r"`(\w+\.py)`", section))
    source = ROOT / "src" / "taut" / "bounds"
    assert told == {path.name for path in source.glob("*.py")} - {"__init__.py"}


def test_the_table_of_lines_has_every_family_with_its_lower_line() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \| .+ \|$", _lines_section(), re.M))
    assert set(rows) == {*LINES, "best"}
    z = torch.linspace(-1, 2, 7, dtype=torch.float64)
    for low, high in ((-1.0, 2.0), (-2.0, 1.0)):
        ends = (torch.tensor([end], dtype=torch.float64) for end in (low, high))
        bounds = taut.Bounds(*ends)
        for kind in LINES:
            lines = ReLU().lines(bounds, kind)
            told = {"0": 0 * z, "z": z, "parallel": z * high / (high - low)}
            text = rows[kind]
            words = re.match(r"0|z|parallel", text)
            assert words is not None
            expected = told[words[0]]
            if kind == "adaptive" and not high > -low:
                assert text == "z where u > -l, else 0"
                expected = 0 * z
            shift = 0 if lines.lower_intercept is None else lines.lower_intercept
            torch.testing.assert_close(lines.lower_slope * z + shift, expected)


def _lines_section() -> str:
    return page("methods.md").split("### Lines")[1].split("**When adaptive")[0]


def test_the_axes_of_the_bounding_grid_are_the_fields() -> None:
    section = page("methods.md").split("### The axes")[1].split("<!--")[0]
    told = set(re.findall(r"^\| .+? \| `(\w+)` \|", section, re.M))
    assert told == {field.name for field in dataclasses.fields(Backward)}
    listed = {m for m in BOUNDING if f"`{m}`" in page("architecture.md")}
    assert listed == set(BOUNDING)


def test_the_run_folder_is_as_described(tmp_path: Path) -> None:
    text = page("run-folder.md")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images = ImageSet.from_tensors(torch.rand(8, 1, 2, 2), torch.arange(8) % 3, 3)
    settings = taut.Settings(epochs=1, eps=0.1, batch_size=4)
    taut.fit(net, images, "ibp", settings=settings, validation=images, out=tmp_path / "a")
    described = set(re.findall(r"^  ([\w.*]+(?: |\*))", text, re.M))
    names = {re.sub(r"tfevents\..*", "tfevents.*", p.name) for p in (tmp_path / "a").iterdir()}
    assert names - {".lock"} <= {name.strip() for name in described}
    with RunFolder.open(tmp_path / "a") as run:
        for key in run.config:
            assert f"`{key}`" in text.split("## `config.json`")[1].split("## ")[0], key
        (row,) = run.read_metrics()
    section = text.split("## `metrics.jsonl`")[1].split("## `")[0]
    for key in [*row, *row["loss"], *row["train"]]:
        assert f"`{key}`" in section, key
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    for key in REQUIRED:
        assert key in summary
        assert f"`{key}`" in text.split("## `summary.json`")[1], key


def test_the_journal_is_as_described(tmp_path: Path) -> None:
    text = page("run-folder.md").split("## `journal.sqlite`")[1].split("## `summary")[0]
    Journal(tmp_path / "j.sqlite", dict.fromkeys(META_REQUIRED, 0)).close()
    with closing(sqlite3.connect(tmp_path / "j.sqlite")) as database:
        columns = database.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
            "WHERE m.type = 'table'"
        ).fetchall()
    assert len(columns) > 10
    for table, column in columns:
        assert f"`{table}`" in text, table
        assert f"`{column}`" in text, column
    for key in META_REQUIRED:
        assert f"`{key}`" in text, key
    assert JOURNAL_FORMAT == 1


def test_reasons_and_statuses_are_described() -> None:
    text = page("soundness.md")
    told = (ROOT / "src" / "taut" / "verify" / "verdict.py").read_text()
    (reasons,) = re.findall(r'"" when verified;(.*?)\n    margin', told, re.S)
    for reason in re.findall(r'"([a-z ]+)"', reasons):
        assert f"`{reason}`" in text, reason
    for status in Status:
        assert f"| `{status.value}` |" in text
    first, others = page("methods.md").split("## Verification")[1].split("Other stages")
    row = re.compile(r"^\| `([\w-]+)` \| (?:verified|falsified)", re.M)
    assert tuple(row.findall(first)) == Cascade().stages
    assert tuple(row.findall(others)) == COMPLETE_STAGES


def test_the_picture_of_the_report_is_there_and_small() -> None:
    picture = DOCS / "report.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 400_000
    assert "docs/report.png" in (ROOT / "README.md").read_text()


def test_the_figures_of_the_demo_agree_with_each_other() -> None:
    (shown,) = [
        b.text for b in blocks(ROOT / "README.md", "text") if "certified accuracy" in b.text
    ]
    rows = re.findall(r"^ ([\w-]+) +([\d-]+) +([\d-]+) +([\d-]+)$", shown, re.M)
    counts = {name: [int(n) if n != "-" else 0 for n in numbers] for name, *numbers in rows}
    assert tuple(counts) == Cascade().stages
    total = sum(map(sum, counts.values()))
    verified = sum(row[0] for row in counts.values())
    wrong, broken = counts["clean"][1], counts["attack"][1]
    for name, count in (
        ("natural", total - wrong), ("attacked", total - wrong - broken), ("certified", verified),
    ):  # fmt: skip
        assert re.search(
            rf"^{name} accuracy +{100 * count / total:.1f} % +{count} of {total}\b", shown, re.M
        )
