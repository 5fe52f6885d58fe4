"""Figures of the certification as plotly objects.

Colours are names of the page's CSS variables (``var(--certified)``); the page's script puts
the values of the light, dark or print theme in their place. Class names go through
:func:`plain`, since plotly reads a few HTML tags in text.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from taut.report.counts import Histogram, Share, StageRow

INK, MUTED, RULE = "var(--ink)", "var(--muted)", "var(--rule)"
CERTIFIED, FALSIFIED, UNKNOWN = "var(--certified)", "var(--falsified)", "var(--unknown)"
NATURAL, ATTACKED = "var(--natural)", "var(--attacked)"
RAMP, PAPER = "var(--ramp)", "var(--paper)"

STATUS = {
    "verified": ("verified", CERTIFIED, ""),
    "falsified": ("falsified", FALSIFIED, "/"),
    "unknown": ("unknown", UNKNOWN, "."),
}
"""Status -> (word, colour, pattern): the pattern keeps a black-and-white print readable."""

ACCURACY_COLOUR = {"natural": NATURAL, "attacked": ATTACKED, "certified": CERTIFIED}


def plain(text: str) -> str:
    """Text that plotly shows as it stands, whatever tags it seems to hold."""
    return html.escape(text, quote=False)


def canvas(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the page's style; ``height`` in CSS pixels, width that of its place."""
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": INK, "size": 13, "family": "var(--sans)"},
            "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02,
                       "yanchor": "bottom", "font": {"color": INK}, "traceorder": "normal"},
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": RULE, "font": {"color": INK}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": INK},
            "dragmode": False,
            **layout,
        }
    )  # fmt: skip


def axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    """An axis with a thin rule and a quiet title."""
    text = {"text": title, "font": {"color": MUTED, "size": 12}, "standoff": 8}
    return {
        "title": text if title else None,
        "gridcolor": RULE,
        "linecolor": RULE,
        "zerolinecolor": RULE,
        "tickfont": {"color": MUTED, "size": 12},
        "automargin": True,
        **more,
    }


def accuracies(shares: Mapping[str, Share]) -> go.Figure:
    """Horizontal bars of the accuracies, in percent, with their Wilson 95 % intervals."""
    figure = canvas(64 + 48 * len(shares), showlegend=False, bargap=0.42)
    for name, share in shares.items():
        lower, upper = share.interval
        figure.add_bar(
            orientation="h",
            name=name,
            x=[100 * share.value],
            y=[name],
            text=[f"{100 * share.value:.{1 if share.total <= 1000 else 2}f} %"],
            textposition="inside",
            insidetextanchor="start",
            textfont={"color": "var(--on-bar)", "size": 12},
            error_x={"type": "data", "symmetric": False, "array": [100 * (upper - share.value)],
                     "arrayminus": [100 * (share.value - lower)],
                     "color": INK, "thickness": 1.2, "width": 5},
            marker={"color": ACCURACY_COLOUR[name]},
            hovertemplate=f"{name} %{{x:.2f}} %: {share.count} of {share.total}<br>"
            f"95 % interval {100 * lower:.2f} to {100 * upper:.2f} %<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        margin_t=8,
        xaxis=axis("per cent of all images, with Wilson 95 % interval", range=[0, 101]),
        yaxis=axis(autorange="reversed", tickfont={"color": INK, "size": 13}, showgrid=False),
    )
    return figure


def _stage_bars(
    rows: Sequence[StageRow], height: int, value: Callable[[StageRow, str], int]
) -> go.Figure:
    figure = canvas(height, barmode="stack", bargap=0.42)
    names = [plain(row.name) for row in rows]
    for status, (word, colour, pattern) in STATUS.items():
        values = [value(row, status) for row in rows]
        figure.add_bar(
            orientation="h",
            name=word,
            x=values,
            y=names,
            text=[str(v) if v else "" for v in values],
            textposition="auto",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": "var(--on-bar)", "size": 12},
            outsidetextfont={"color": INK, "size": 12},
            marker={"color": colour, "line": {"color": PAPER, "width": 1},
                    "pattern": {"shape": pattern, "size": 6, "solidity": 0.12,
                                "fgcolor": PAPER, "fillmode": "overlay"}},
            hovertemplate=f"%{{y}}: %{{x}} {word}<extra></extra>",
        )  # fmt: skip
    return figure


def stages(rows: Sequence[StageRow]) -> go.Figure:
    """Verdicts by the stage that gave them, stacked by status."""
    figure = _stage_bars(rows, 96 + 40 * len(rows), lambda row, status: int(getattr(row, status)))
    figure.update_layout(
        xaxis=axis("images decided by the stage, or left unknown at it"),
        yaxis=axis(autorange="reversed", tickfont={"color": INK, "size": 13}, showgrid=False),
    )
    return figure


def seconds(rows: Sequence[StageRow]) -> go.Figure:
    """Seconds by stage."""
    timed = [row for row in rows if row.seconds is not None]
    figure = canvas(64 + 40 * len(timed), showlegend=False, bargap=0.42)
    figure.add_bar(
        orientation="h",
        x=[row.seconds for row in timed],
        y=[plain(row.name) for row in timed],
        marker={"color": NATURAL},
        hovertemplate="%{y}: %{x:.3g} s<extra></extra>",
    )
    figure.update_layout(
        margin_t=8,
        xaxis=axis("seconds", rangemode="tozero"),
        yaxis=axis(autorange="reversed", tickfont={"color": INK, "size": 13}, showgrid=False),
    )
    return figure


def margins(histogram: Histogram) -> go.Figure:
    """Stacked histogram of the margins; the line at zero parts proved from not proved."""
    edges = histogram.edges
    width = edges[1] - edges[0]
    centres = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    figure = canvas(320, barmode="stack", bargap=0.06)
    for status, (word, colour, pattern) in STATUS.items():
        if any(histogram.counts[status]):
            figure.add_bar(
                name=word,
                x=centres,
                y=list(histogram.counts[status]),
                width=[width * 0.94] * len(centres),
                customdata=[[a, b] for a, b in itertools.pairwise(edges)],
                marker={"color": colour, "line": {"width": 0},
                        "pattern": {"shape": pattern, "size": 5, "solidity": 0.12,
                                    "fgcolor": PAPER, "fillmode": "overlay"}},
                hovertemplate="margin %{customdata[0]:.4g} to %{customdata[1]:.4g}: "
                f"%{{y}} {word}<extra></extra>",
            )  # fmt: skip
    figure.add_vline(x=0, line={"color": INK, "width": 1.2, "dash": "dot"})
    figure.update_layout(
        xaxis=axis("margin"),
        yaxis=axis("images"),
    )
    return figure


def confusion(pairs: Mapping[tuple[int, int], int], names: Mapping[int, str]) -> go.Figure:
    """Heat map of counterexamples: rows the label, columns the class they are taken for."""
    labels = sorted(names)
    shown = [_short(names[i]) for i in labels]
    counted = [[pairs.get((i, j), 0) for j in labels] for i in labels]
    figure = canvas(max(320, 110 + 28 * len(labels)), margin_t=8)
    figure.add_heatmap(
        x=list(range(len(labels))),
        y=list(range(len(labels))),
        z=counted,
        text=[[str(v) if v else "" for v in row] for row in counted],
        texttemplate="%{text}",
        textfont={"size": 12},
        xgap=2,
        ygap=2,
        colorscale=[[0, "var(--heat-0)"], [1, "var(--falsified)"]],
        zmin=0,
        showscale=False,
        customdata=[[f"{plain(names[i])} taken for {plain(names[j])}" for j in labels]
                    for i in labels],
        hovertemplate="%{customdata}: %{z}<extra></extra>",
    )  # fmt: skip
    ticks = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": shown,
             "showgrid": False, "zeroline": False, "showline": False}  # fmt: skip
    turned = 0 if max(map(len, names.values()), default=0) <= 3 else -90
    figure.update_layout(
        xaxis=axis("class of the counterexample", tickangle=turned, **ticks),
        yaxis=axis("label", autorange="reversed", **ticks),
    )
    return figure


def _short(name: str, limit: int = 14) -> str:
    return plain(name if len(name) <= limit else name[: limit - 1] + "…")
