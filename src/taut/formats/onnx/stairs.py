"""Staircases: how many of some thresholds a pixel reaches, counted, and looked up in a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.formats.onnx.call import Call, rule
from taut.formats.onnx.read import Array
from taut.formats.onnx.value import Value
from taut.operators.base import Shape
from taut.operators.cells import Steps
from taut.operators.registry import Template, builds
from taut.operators.registry import Value as Read


class Staircase(nn.Module):
    """A staircase over raw pixels, :class:`~taut.operators.cells.Steps` as a module."""

    thresholds: Tensor
    values: Tensor

    def __init__(self, thresholds: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("values", values)

    def steps(self) -> Steps:
        """Return the operator with the thresholds and values of this moment."""
        return Steps(self.thresholds, self.values)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (B, C, ...) to the values of their cells, of the same shape."""
        return self.steps().forward(x)


@builds(Staircase)
def _staircase(shape: Shape, module: Staircase, x: Read) -> Template:
    if x.index != 0:
        raise UnsupportedOperator("behind another layer (a staircase reads the raw pixels)")
    return Template((x,), module.steps)


@dataclass(frozen=True)
class Reached:
    """Which of ``edges`` (C or 1, T) the elements of ``x`` reach; how many, once ``summed``."""

    x: Value
    edges: Array
    summed: bool = False
    first: Array | None = None
    """What is added to the count: the place in the table where a channel's row begins."""
    apart: bool = False
    """Whether each count stands on an axis of its own, as GatherND reads places."""


@rule("GreaterOrEqual")
def _reaches(call: Call) -> Reached:
    spread, edges = call.value(), call.array(1)
    pixels = call.builder.input
    if spread.node.args[:1] != (pixels.node,) or spread.rest != (*pixels.rest, 1):
        raise UnsupportedOperator("of something else than raw pixels beside one more axis")
    rows = edges.reshape(-1, edges.shape[-1]) if edges.ndim else edges.reshape(1, 1)
    wide = [size for size in edges.shape[:-1] if size != 1]
    by_channel = len(edges.shape) == len(spread.rest) and wide == [edges.shape[0]]
    if wide and not (by_channel and len(rows) == pixels.rest[0]):
        raise UnsupportedOperator(f"with thresholds of shape {edges.shape} for {pixels.rest}")
    return Reached(pixels, np.sort(rows, 1))


_COUNTERS = {1: 2**24, 11: 2**53, 6: 2**31, 7: 2**63}
"""Element types of ONNX (float, double, int32, int64) that hold whole numbers below this."""


def _cast(call: Call, found: Reached) -> Reached:
    kind = call.attribute("to")
    if found.edges.shape[1] >= _COUNTERS.get(kind, 0):
        raise UnsupportedOperator(f"of comparisons or their count to the element type {kind}")
    for name in ("saturate", "round_mode"):  # about types that are refused
        call.attribute(name)
    return found


def _sum(call: Call, found: Reached) -> Reached:
    axes = call.axes(len(found.x.shape) + 1, 1)
    if axes != [len(found.x.shape)] or call.attribute("keepdims", 1) or found.summed:
        raise UnsupportedOperator("of comparisons over another axis than that of thresholds")
    call.attribute("noop_with_empty_axes")
    return replace(found, summed=True)


def _add(call: Call, found: Reached) -> Reached:
    other = next((x for x in call.inputs if isinstance(x, np.ndarray)), None)
    count = len(found.x.rest)
    if not found.summed or found.apart:
        raise UnsupportedOperator("of a number and comparisons that are not counted yet")
    if other is None or found.first is not None or other.shape != (len(other), *[1] * (count - 1)):
        raise UnsupportedOperator("of a count of thresholds and anything but one number a channel")
    return replace(found, first=other.reshape(-1))


def _unsqueeze(call: Call, found: Reached) -> Reached:
    last = call.axes(len(found.x.shape) + 1, 1) == [len(found.x.shape)]
    if not last or not found.summed or found.apart:
        raise UnsupportedOperator("of a count of thresholds, but for one last axis")
    return replace(found, apart=True)


def _look_up(call: Call, found: Reached) -> Value:
    table, (count, edges) = call.array(0), (found.edges.shape[1] + 1, found.edges)
    channels = 1 if found.first is None else len(found.first)
    begins = np.zeros(1) if found.first is None else found.first
    if table.shape != (channels * count,) or not np.array_equal(
        begins, np.arange(channels) * count
    ):
        raise UnsupportedOperator(f"in a table of shape {table.shape} by {count - 1} thresholds")
    if found.apart != (call.node.op_type == "GatherND"):
        raise UnsupportedOperator("in a table at places of another shape")
    if call.attribute("axis", 0) or call.attribute("batch_dims", 0) or not found.summed:
        raise UnsupportedOperator("in a table by thresholds, but for its first axis")
    values = call.tensor(table).view(channels, count)
    if bool((values.diff(dim=1) < 0).any()):
        raise UnsupportedOperator("in a table whose values descend")
    thresholds = torch.from_numpy(np.array(edges, dtype=call.dtype))  # +inf for none
    layer = Staircase(
        thresholds if len(thresholds) > 1 else thresholds[0],
        values if channels > 1 else values[0],
    )
    return call.builder.module(layer, found.x, found.x.axis)


FOLLOW: dict[str, Callable[[Call, Reached], Reached | Value]] = {
    "Cast": _cast,
    "ReduceSum": _sum,
    "Add": _add,
    "Unsqueeze": _unsqueeze,
    "Gather": _look_up,
    "GatherND": _look_up,
}
"""What may be done with comparisons until they are a staircase, by the name of the operator."""


def follow(call: Call) -> Reached | Value:
    """Return what an operator makes of comparisons with thresholds."""
    inputs: tuple[Any, ...] = call.inputs
    found: Reached = next(x for x in inputs if isinstance(x, Reached))
    if call.node.op_type not in FOLLOW:
        raise UnsupportedOperator("of comparisons that are not counted and looked up in a table")
    return FOLLOW[call.node.op_type](call, found)
