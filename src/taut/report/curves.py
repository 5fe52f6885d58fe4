"""Figures of the training run: losses, validation accuracy, learning rate and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from taut.report.figures import (
    ATTACKED,
    CERTIFIED,
    INK,
    MUTED,
    NATURAL,
    RAMP,
    axis,
    canvas,
    plain,
)

Metrics = Sequence[Mapping[str, Any]]

_LOSS_COLOUR = {"total": INK, "natural": NATURAL, "robust": CERTIFIED}
_OTHERS = (ATTACKED, "var(--falsified)", "var(--accent)", "var(--unknown)")


def column(metrics: Metrics, *path: str) -> list[float | None]:
    """One number per epoch found under the nested keys ``path``; None where it is not."""
    values: list[float | None] = []
    for line in metrics:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        values.append(float(value) if number else None)
    return values


def has(metrics: Metrics, *path: str) -> bool:
    """Whether any epoch holds a number under ``path``."""
    return any(value is not None for value in column(metrics, *path))


def loss_parts(metrics: Metrics) -> list[str]:
    """Names of the loss parts, total first."""
    names = [n for line in metrics if isinstance(line.get("loss"), Mapping) for n in line["loss"]]
    distinct = [name for name in dict.fromkeys(names) if has(metrics, "loss", name)]
    return sorted(distinct, key=lambda name: name != "total")


def losses(metrics: Metrics) -> go.Figure:
    """Every part of the training loss by epoch, with the eps ramp on the second axis."""
    figure = _over_ramp(metrics, axis("loss", rangemode="tozero"))
    others = iter(_OTHERS * 4)
    for part in loss_parts(metrics):
        colour, dash = _LOSS_COLOUR.get(part), "solid"
        if colour is None:
            colour, dash = next(others), "dash"
        _line(figure, metrics, ("loss", part), part, colour, ".4g", dash=dash)
    return figure


def validation(metrics: Metrics) -> go.Figure:
    """Natural and certified validation accuracy by epoch, in per cent, with the eps ramp."""
    figure = _over_ramp(metrics, axis("validation accuracy, per cent", range=[0, 101]))
    for key, name, colour in (
        ("natural_accuracy", "natural", NATURAL),
        ("certified_accuracy", "certified", CERTIFIED),
    ):
        if has(metrics, "validation", key):
            _line(figure, metrics, ("validation", key), name, colour, ".2f", scale=100.0)
    return figure


def learning_rate(metrics: Metrics) -> go.Figure:
    """Learning rate by epoch."""
    figure = _by_epoch(metrics, 200, showlegend=False, margin_t=10)
    _line(figure, metrics, ("lr",), "learning rate", NATURAL, ".4g", shape="hv")
    figure.update_layout(yaxis=axis("learning rate", rangemode="tozero", nticks=5))
    return figure


def epoch_seconds(metrics: Metrics) -> go.Figure:
    """Wall time of every epoch."""
    figure = _by_epoch(metrics, 200, showlegend=False, margin_t=10)
    _line(figure, metrics, ("seconds",), "seconds", NATURAL, ".3g")
    figure.update_layout(yaxis=axis("seconds per epoch", rangemode="tozero", nticks=5))
    return figure


def _by_epoch(metrics: Metrics, height: int, **layout: Any) -> go.Figure:
    epochs = [epoch for epoch in column(metrics, "epoch") if epoch is not None] or [1.0]
    room = 0.02 * (max(epochs) - min(epochs)) + 0.3
    ends = [min(epochs) - room, max(epochs) + room]
    ticks = axis("epoch", showgrid=False, tickformat="d", nticks=8, range=ends, zeroline=False)
    return canvas(height, hovermode="x unified", xaxis=ticks, **layout)


def _line(
    figure: go.Figure,
    metrics: Metrics,
    path: tuple[str, ...],
    name: str,
    colour: str,
    form: str,
    scale: float = 1.0,
    dash: str = "solid",
    shape: str = "linear",
) -> None:
    values = [None if v is None else scale * v for v in column(metrics, *path)]
    figure.add_scatter(
        x=column(metrics, "epoch"),
        y=values,
        name=plain(name),
        yaxis="y2" if "yaxis2" in figure.layout.to_plotly_json() else "y",
        mode="lines+markers" if len(values) <= 60 else "lines",
        line={"color": colour, "width": 2, "dash": dash, "shape": shape},
        marker={"size": 4, "color": colour},
        hovertemplate=f"%{{y:{form}}}",
    )


def _over_ramp(metrics: Metrics, left: dict[str, Any]) -> go.Figure:
    """A figure whose curves lie, on the axis ``left``, over the eps ramp on the right axis.

    plotly draws an overlaying axis above the first one, so the ramp has the first.
    """
    figure = _by_epoch(metrics, 330)
    if not has(metrics, "eps"):
        figure.update_layout(yaxis=left)
        return figure
    values = column(metrics, "eps")
    # The ramp takes the lower half of the plot: it is the background, not the message.
    top = 2.2 * (max(v for v in values if v is not None) or 1.0)
    right = axis("training eps", side="right", range=[0, top], showgrid=False, nticks=5)
    # An overlaying axis would copy the tick places of the first one.
    left = {**left, "overlaying": "y", "side": "left", "tickmode": "auto", "nticks": 6}
    figure.update_layout(yaxis=right, yaxis2=left)
    figure.add_scatter(
        x=column(metrics, "epoch"),
        y=values,
        name="eps (right)",
        mode="lines",
        fill="tozeroy",
        fillcolor=RAMP,
        legendrank=2000,
        line={"color": MUTED, "width": 1, "dash": "dot"},
        hovertemplate="%{y:.4g}",
    )
    return figure
