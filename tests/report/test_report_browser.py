"""The report in a real browser, opened from the disk: it draws, loads nothing, fits, folds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cell_run import on_cells
from sample_run import EVIL, Case
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from taut.report import png, write

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--window-size=1200,900",
)  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium or no chromedriver"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    browser.set_page_load_timeout(60)
    browser.set_script_timeout(30)
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def address(case: Case, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample's report with one hostile class name, as a file address."""
    names = ["<b>zero</b>", f"{EVIL} one", *(f"digit {i}" for i in range(2, 10))]
    data = replace(case.data, class_names=names)
    return write(data, tmp_path_factory.mktemp("report") / "report.html").as_uri()


@pytest.fixture(scope="module")
def gridded(case: Case, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a network on cells, as a file address."""
    return write(on_cells(case), tmp_path_factory.mktemp("cells") / "report.html").as_uri()


@pytest.fixture(scope="module")
def opened(driver: webdriver.Chrome, address: str) -> webdriver.Chrome:
    """The report, open already or opened now, for tests that leave it as it is."""
    if driver.current_url != address:
        open_page(driver, address)
    return driver


@pytest.fixture
def page(driver: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The report, freshly opened at 1200 pixels in the light theme."""
    show(driver, 1200, "light")
    open_page(driver, address)
    yield driver
    show(driver, 1200, "light")


def open_page(browser: webdriver.Chrome, address: str) -> None:
    """Open the report and wait until its figures are drawn."""
    browser.get(address)
    drawn = "return document.documentElement.classList.contains('drawn')"
    WebDriverWait(browser, 30).until(lambda d: run(d, drawn))


def run(browser: webdriver.Chrome, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)


def show(browser: webdriver.Chrome, width: int, scheme: str, media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": theme})


def test_no_console_error_and_no_request_besides_the_file(
    driver: webdriver.Chrome, address: str
) -> None:
    driver.get_log("browser")
    driver.get_log("performance")
    open_page(driver, address)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    entries = run(driver, "return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in entries if not name.startswith("data:")] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    asked = [url for url in asked if not url.startswith("chrome://")]  # of its own first page
    assert asked[0] == address
    assert all(url.startswith("data:") for url in asked[1:])


def test_the_page_forbids_itself_the_network(opened: webdriver.Chrome) -> None:
    refused = opened.execute_async_script(
        """const done = arguments[0];
        document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => done("no violation"), 500));"""
    )
    assert refused == "connect-src"


def test_every_figure_is_drawn_with_its_traces(opened: webdriver.Chrome) -> None:
    drawn = run(
        opened,
        """return Array.from(document.querySelectorAll("[data-figure]"), (place) => {
          const box = place.querySelector(".main-svg").getBoundingClientRect();
          const seen = (selector, least) => Array.from(place.querySelectorAll(selector), (e) =>
            e.getBoundingClientRect()).filter((b) => b.width > 2 && b.height >= least).length;
          const marks = seen(".barlayer .point path, .heatmaplayer image", 2)
            + seen(".scatterlayer path.js-line", 0);
          return {name: place.dataset.figure, width: box.width, height: box.height,
                  traces: place.data.length, marks: marks};
        });""",
    )
    marks = {figure["name"]: figure["marks"] for figure in drawn}
    assert len(marks) == 9
    assert all(f["width"] > 300 and f["height"] > 150 and f["traces"] > 0 for f in drawn)
    assert marks["accuracies"] == 3
    assert marks["stages"] == 5  # one bar a stage: no stage gave two kinds of verdict
    assert marks["losses"] == 4
    assert marks["validation"] == 3
    assert all(count > 0 for count in marks.values())


def test_class_names_are_shown_as_they_stand(opened: webdriver.Chrome) -> None:
    ticks = run(
        opened,
        """return Array.from(document.querySelectorAll("#figure-confusion .ytick text"),
                             (tick) => tick.textContent);""",
    )
    assert "<b>zero</b>" in ticks
    assert any(tick.startswith("</script>") for tick in ticks)
    assert run(opened, "return document.querySelectorAll('img[onerror]').length") == 0


def test_counterexamples_are_visible_pixel_by_pixel(opened: webdriver.Chrome, case: Case) -> None:
    shown = run(
        opened,
        """return Array.from(document.querySelectorAll(".tiles.broken img"), (image) => {
          const box = image.getBoundingClientRect();
          return [image.complete, image.naturalWidth, image.naturalHeight, box.width, box.height,
                  image.checkVisibility(), getComputedStyle(image).imageRendering];
        });""",
    )
    assert len(shown) == 60
    for complete, width, height, wide, high, visible, rendering in shown:
        assert complete
        assert (width, height) == (28, 28)
        assert min(wide, high) > 40
        assert visible
        assert rendering == "pixelated"
    pixels = run(
        opened,
        """const image = document.querySelector('img[alt="counterexample to image 1"]');
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 28;
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        const data = context.getImageData(0, 0, 28, 28).data;
        return Array.from(data).filter((_, i) => i % 4 === 0);""",
    )
    other = case.data.verdicts[1].counterexample
    assert other is not None
    assert np.array_equal(np.array(pixels), png.picture(other.numpy()).ravel())


def test_the_configuration_folds(opened: webdriver.Chrome) -> None:
    visible = "return document.querySelector('#configuration td').checkVisibility()"
    assert run(opened, visible) is False
    run(opened, "document.querySelector('#configuration summary').click()")
    assert run(opened, visible) is True
    assert "milestones" in run(opened, "return document.querySelector('#configuration').innerText")
    run(opened, "document.querySelector('#configuration summary').click()")
    assert run(opened, visible) is False


def test_nothing_scrolls_sideways(driver: webdriver.Chrome, address: str) -> None:
    show(driver, 400, "light")
    open_page(driver, address)
    run(driver, "document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (400, 1200, 700):  # opened at 400 pixels, widened, narrowed
        show(driver, width, "light")
        fits = "return document.documentElement.scrollWidth <= innerWidth"
        WebDriverWait(driver, 10).until(lambda d: run(d, fits))
        assert run(driver, "return innerWidth") == width
        WebDriverWait(driver, 10).until(lambda d: not run(d, WIDE))


WIDE = """return Array.from(document.querySelectorAll("figure, .main-svg, img, .card, pre, h1"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 80));"""


COLOURS = """return [
    getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector("#figure-accuracies .barlayer .point path")).fill,
    getComputedStyle(document.querySelector("#figure-accuracies .xtick text")).fill];"""


def brightness(colour: str) -> float:
    return float(np.mean([float(part) for part in colour[4:-1].split(",")]))


def test_figures_follow_the_theme_and_print_light(page: webdriver.Chrome) -> None:
    light = run(page, COLOURS)
    show(page, 1200, "dark")
    WebDriverWait(page, 10).until(lambda d: run(d, COLOURS)[2] != light[2])
    dark = run(page, COLOURS)
    assert brightness(light[0]) > 240 > 60 > brightness(dark[0])
    assert light[1] != dark[1]
    assert brightness(light[2]) < 128 < brightness(dark[2])
    run(page, "dispatchEvent(new Event('beforeprint'))")
    WebDriverWait(page, 10).until(lambda d: run(d, COLOURS) == light)
    assert run(page, "return document.querySelector('#configuration').open") is True
    run(page, "dispatchEvent(new Event('afterprint'))")
    WebDriverWait(page, 10).until(lambda d: run(d, COLOURS) == dark)
    assert run(page, "return document.querySelector('#configuration').open") is False


def test_cells_are_drawn_and_fit_in_every_width(driver: webdriver.Chrome, gridded: str) -> None:
    driver.get_log("browser")
    show(driver, 400, "light")
    open_page(driver, gridded)
    for width in (400, 1200):
        show(driver, width, "light")
        WebDriverWait(driver, 10).until(lambda d: not run(d, WIDE))
        assert run(driver, "return document.documentElement.scrollWidth <= innerWidth")
        shown = run(
            driver,
            """return Array.from(document.querySelectorAll("#cells img"), (image) => {
              const box = image.getBoundingClientRect();
              return [image.complete && image.naturalWidth === 28 && image.checkVisibility(),
                      Math.min(box.width, box.height), Math.abs(box.width - box.height)];
            });""",
        )
        assert len(shown) == 24
        assert all(there and size > 40 and skew < 1 for there, size, skew in shown)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


CONTRAST = """const probe = (selector) => {
      const seen = getComputedStyle(document.querySelector(selector));
      return [seen.color, seen.backgroundColor];
    };
    return [...["#cells .card.published .value", "#cells .card.published .gloss",
                "#cells .facts th"].map((s) => probe(s)[0]),
            probe("#cells .card.published")[1]];"""


def test_cells_are_readable_in_both_themes(driver: webdriver.Chrome, gridded: str) -> None:
    for scheme in ("light", "dark"):
        show(driver, 1200, scheme)
        open_page(driver, gridded)
        *texts, panel = run(driver, CONTRAST)
        assert (brightness(panel) > 200) == (scheme == "light")
        assert all(contrast(text, panel) > 4.5 for text in texts)
    show(driver, 1200, "light")


def contrast(colour: str, other: str) -> float:
    """Ratio of the luminances of two colours, as in WCAG 2.2."""

    def luminance(text: str) -> float:
        parts = np.array([float(part) for part in text[4:-1].split(",")]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)
