"""The report of a run: one HTML file that needs no network.

plotly and jinja2 are imported here, so ``taut`` itself does not import this package.
"""

from taut.report.collect import collect
from taut.report.data import ReportData
from taut.report.page import render, write

__all__ = ["ReportData", "collect", "render", "write"]
