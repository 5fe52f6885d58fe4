"""The page: one self-contained HTML file that loads nothing from anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from taut._version import __version__
from taut.report import cells, text
from taut.report.context import context, figures
from taut.report.data import ReportData, check
from taut.store.atomic import write_atomic

_UNSAFE_IN_SCRIPT = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def render(data: ReportData) -> str:
    """The report as one HTML document; the same data give the same text.

    All text is escaped. Figures are JSON in ``script`` elements of a type that browsers do not
    run. The document forbids itself every network access (Content-Security-Policy).

    Raises
    ------
    RunError
        When parts of ``data`` contradict each other, see :func:`taut.report.data.check`
        and :func:`taut.report.cells.check`.

    """
    check(data)
    cells.check(data)
    environment = _environment()
    drawn = {name: embed(figure.to_json()) for name, figure in figures(data).items()}
    return environment.get_template("report.html.j2").render(
        **context(data),
        figures=drawn,
        plotly_js=_script(get_plotlyjs()) if drawn else None,
        style=Markup(_source(environment, "report.css")),
        script=_script(_source(environment, "report.js")),
        version=__version__,
    )


def write(data: ReportData, path: Path) -> Path:
    """Write the report to ``path``, whole or not at all, and return ``path``.

    Raises
    ------
    RunError
        As :func:`render`, and when the folder is missing or cannot be written.

    """
    write_atomic(path, render(data).encode("utf-8"))
    return path


def embed(json_text: str) -> Markup:
    """JSON that can stand in a ``script`` element: no character there ends or opens a tag."""
    escaped = "".join(_UNSAFE_IN_SCRIPT.get(character, character) for character in json_text)
    return Markup(escaped)


def _script(source: str) -> Markup:
    """JavaScript that can stand in a ``script`` element.

    ``<\\/`` is the same as ``</`` in strings and regular expressions, the only places where
    ``</script`` can occur in a program.
    """
    return Markup(re.sub(r"</(?=script)", r"<\\/", source, flags=re.IGNORECASE))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("taut.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "number", "integer", "duration", "interval", "radius"):
        environment.filters[name] = getattr(text, name)
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
