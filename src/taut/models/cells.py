"""Cells of a grid as the first layer of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from taut.errors import ConfigError, UnsupportedOperator
from taut.operators.base import Shape
from taut.operators.cells import Ends, Steps
from taut.operators.registry import Inner, Template, Value, builds

Emitted = Literal["levels", "ends"]
"""What a cell hands on."""

MOST = 1024
"""The largest number of cells along a pixel's range."""

_BELOW = (
    2.0**-20
)  # an edge lies this much lower, so that grey levels on it are above in float32 too


ARGUMENTS = ("n", "emit", "offset", "thresholds", "learn")
"""What a table may say of cells."""


class Cells(nn.Module):
    r"""The cell of a grid that every pixel lies in: a first layer behind which all is discrete.

    .. math:: k(x) = \#\{j : t_j \le x\}, \qquad t_j = (j + o)/n \in (0, 1)

    for raw pixels x in [0, 1], n cells and an offset o. Grey levels g / 255 get the cell of exact
    arithmetic, with o = 0 that is :math:`\min(\lfloor g n / 255 \rfloor, n - 1)`: the edges lie
    :math:`2^{-20}` below, which is above the rounding of float32 and below the distance of any
    other grey level, with an offset p / q as long as n q is at most 4096.

    An adversary of radius eps moves a pixel to another cell only where an edge is within
    eps: such a pixel *straddles*, and its value may jump by a whole cell; others are out of reach.
    All bounding methods, attacks and verifiers of taut take that into account.

    Gradients are straight-through: with respect to the pixel that of the line from the first to
    the last value, with respect to a learned threshold the jump there under a tent around it.

    Parameters
    ----------
    n
        Cells along the range of a pixel, one number or one per channel; 1 makes every image the
        same. Or leave it out and give ``thresholds``.
    emit
        ``levels``: one value per pixel, evenly from 0 for the first cell to 1 for the last (0.5
        for one cell alone). ``ends``: two channels per channel, as published, first all upper ends
        and then all lower ends of the cells in the range [-1, 1].
    offset
        Where the grid begins, in cells, in [0, 1); above 0 there is one cell more.
    thresholds
        Edges of the cells themselves, ascending in (0, 1), one list or one per channel, all of one
        length; only with ``levels``. They are taken as they are.
    learn
        Train the thresholds, beginning with these; with ``levels`` only.

    Raises
    ------
    ConfigError
        A value out of range, or values that do not go together.

    References
    ----------
    Zhang et al., *Boosting verified training for robust image classifications via abstraction*
    (2023), Sec. 3.

    """

    no_weights: ClassVar[tuple[str, ...]] = ("thresholds",)
    thresholds: Tensor
    values: Tensor
    width: Tensor

    def __init__(
        self,
        n: int | Sequence[int] | None = None,
        *,
        emit: Emitted = "levels",
        offset: float = 0.0,
        thresholds: Sequence[float] | Sequence[Sequence[float]] | None = None,
        learn: bool = False,
    ) -> None:
        super().__init__()
        if emit not in get_args(Emitted):
            raise ConfigError(f"cells.emit must be levels or ends; got {emit!r}")
        if (n is None) == (thresholds is None):
            raise ConfigError("cells need either n or thresholds, and not both")
        if not isinstance(learn, bool):
            raise ConfigError(f"cells.learn must be true or false; got {learn!r}")
        if emit == "ends" and (learn or thresholds is not None):
            raise ConfigError('cells.emit = "ends" needs an even grid: give n, and no learn')
        number = isinstance(offset, int | float) and not isinstance(offset, bool)
        if not number or not 0.0 <= offset < 1.0:
            raise ConfigError(f"cells.offset must lie in [0, 1); got {offset!r}")
        if offset and n is None:
            raise ConfigError("cells.offset moves an even grid: give n, or leave it out")
        if thresholds is None:
            assert n is not None
            edges, values, width = _even(n, offset, emit)
        else:
            edges, values, width = _given(thresholds), None, None
        if values is None:
            values = torch.stack([_levels(row) for row in torch.atleast_2d(edges)])
            values = values if edges.dim() == 2 else values[0]
        self.emit: Emitted = emit
        self._learn, self._offset = learn, float(offset)
        self._n = n if n is None or isinstance(n, int) else list(n)
        self._given = edges.tolist() if n is None else None
        if learn and not bool(torch.isfinite(edges).all()):
            raise ConfigError("cells.learn needs the same n for all channels")
        if learn:
            self.thresholds = nn.Parameter(edges)
        else:
            self.register_buffer("thresholds", edges)
        self.register_buffer("values", values)
        self.register_buffer("width", width)

    def forward(self, x: Tensor) -> Tensor:
        """Map raw images (B, C, ...) to what their cells emit: (B, C, ...) or (B, 2 C, ...)."""
        found = self.steps().forward(x)
        return found if self.emit == "levels" else self.ends(x.dim() - 1).forward(found)

    def steps(self) -> Steps:
        """Return the staircase with the thresholds of this moment, in ascending order."""
        edges = self.thresholds
        return Steps(edges.sort(-1).values if self._learn else edges, self.values)

    def ends(self, axes: int) -> Ends:
        """Return what follows the steps with ``emit="ends"``, for images of ``axes`` axes."""
        return Ends(self.width.view(-1, *[1] * (axes - 1)))

    def channels(self, channels: int) -> int:
        """Return how many channels images of ``channels`` channels become."""
        return channels * (1 if self.emit == "levels" else 2)

    def configuration(self) -> dict[str, Any]:
        """Return the arguments that make this layer, in plain values.

        Learned thresholds are among the weights; here stand those that training began with.
        """
        given = self._given if self._learn else self.thresholds.tolist()
        return {
            **({"thresholds": given} if self._n is None else {"n": self._n}),
            **({} if self.emit == "levels" else {"emit": self.emit}),
            **({"offset": self._offset} if self._offset else {}),
            **({"learn": True} if self._learn else {}),
        }

    def extra_repr(self) -> str:
        """Show the grid in ``print(model)``."""
        shown = self.configuration()
        if self._n is None:
            shown["thresholds"] = _rounded(shown["thresholds"])
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())


def cells_from(value: object, name: str = "cells") -> Cells:
    """Return the cells that a number, a list of one per channel, or a table of arguments describes.

    Raises
    ------
    ConfigError
        For anything else, an unknown key or a value out of range; ``name`` stands in the message.
    """
    if isinstance(value, Mapping):
        for key in value:
            if key not in ARGUMENTS:
                raise ConfigError(f"unknown key '{name}.{key}' (cells have {', '.join(ARGUMENTS)})")
        return Cells(**value)
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        raise ConfigError(
            f"{name} must be a number of cells, a list of one per channel, or a table with "
            f"{', '.join(ARGUMENTS)}; got {value!r}"
        )
    return Cells(value)


def cells_of(model: nn.Module) -> Cells | None:
    """Return the cells a network begins with: the first layer of a sequence, however nested."""
    first: nn.Module | None = model
    while isinstance(first, nn.Sequential):
        first = next(first.children(), None)
    return first if isinstance(first, Cells) else None


def _even(
    n: int | Sequence[int], offset: float, emit: Emitted
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return edges, values (None: levels) and the width of the cells, in [-1, 1]."""
    counts = list(n) if isinstance(n, Sequence) else [n]
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
            raise ConfigError(f"cells.n must be whole numbers from 1 to {MOST}; got {n!r}")
    if not counts:
        raise ConfigError("cells.n is empty; give one number, or one per channel")
    first = 0 if offset > 0 else 1
    rows = [[(k + offset) / c - _BELOW for k in range(first, c)] for c in counts]
    most = max(map(len, rows))
    if any(row and row[0] <= 0 for row in rows):
        raise ConfigError(
            f"cells.offset = {offset:g} leaves a first cell that holds no pixel; take 0, or more"
        )
    edges = torch.tensor([row + [math.inf] * (most - len(row)) for row in rows])
    values = width = None
    if emit == "ends":
        start = offset - 1 if offset > 0 else 0.0
        lower = [
            [-1 + 2 * (start + min(k, len(row))) / c for k in range(most + 1)]
            for c, row in zip(counts, rows, strict=True)
        ]
        values = torch.tensor(lower)
        width = torch.tensor([2 / c for c in counts]).view(-1, 1, 1)
    if isinstance(n, int):
        return edges[0], None if values is None else values[0], width
    return edges, values, width


def _given(thresholds: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    try:
        edges = torch.tensor(thresholds, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):  # text, rows of several lengths, huge numbers
        edges = torch.empty(0)
    good = edges.dim() in (1, 2) and edges.numel() > 0
    if not good or not bool(((edges > 0) & (edges < 1)).all() & (edges.diff(dim=-1) > 0).all()):
        raise ConfigError(
            "cells.thresholds must ascend inside (0, 1): one list, or one per channel, all of one "
            f"length; got {thresholds!r}"
        )
    return edges


def _rounded(thresholds: list[Any]) -> list[Any]:
    return [_rounded(t) if isinstance(t, list) else round(t, 4) for t in thresholds]


def _levels(edges: Tensor) -> Tensor:
    """Return values from 0 to 1 for the cells between finite edges, 1 for those beyond."""
    count = int(torch.isfinite(edges).sum())
    if count == 0:
        return torch.full((len(edges) + 1,), 0.5)
    return (torch.arange(len(edges) + 1) / count).clamp(max=1.0)


@builds(Cells)
def _cells(shape: Shape, module: Cells, x: Value) -> Template:
    if x.index != 0:
        raise UnsupportedOperator(
            "behind another layer (cells read the raw pixels: put them first)"
        )
    if module.emit == "levels":
        return Template((x,), module.steps)
    steps = Inner(Template((x,), module.steps), x.shape)
    return Template((steps,), lambda: module.ends(len(x.shape)))
