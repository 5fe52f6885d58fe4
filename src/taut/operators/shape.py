"""The same elements in another shape, and operators that change nothing when evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import POINTWISE, Affine, Reach, Shape, channels_last
from taut.operators.forms import Interval
from taut.operators.registry import Case, Entry, Template, Value, builds, register


class _RowMajor(torch.autograd.Function):
    """Images laid out channel by channel, their gradient given back pixel by pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return channels_last(grads[0])


@dataclass(frozen=True)
class Reshape(Affine):
    """The same elements in another shape (batch axis kept).

    Row-major, as PyTorch has it; ``pixel_major`` flattens images pixel by pixel
    instead, without a copy where convolutions left them so. A graph chooses that
    only where every reader is a linear layer whose columns are put in the same order.
    """

    name: ClassVar[str] = "reshape"
    shape: Shape
    pixel_major: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.pixel_major:
            return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
        if x.dim() == 4 and not x.is_contiguous():
            x = _RowMajor.apply(x)  # type: ignore[no-untyped-call]
        return x.reshape(x.shape[0], *self.shape)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self.forward(*radii)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        (shape,) = shapes
        if self.pixel_major:
            channels, height, width = shape
            return (rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2),)
        return (channels_last(rows.reshape(rows.shape[0], *shape)),)


@dataclass(frozen=True)
class Identity(Affine):
    """The input itself: dropout when evaluated, or an operator folded into the one before."""

    name: ClassVar[str] = "identity"

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0]

    def interval(self, *inputs: Interval) -> Interval:
        return inputs[0]

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows,)

    @property
    def reach(self) -> Reach:
        return POINTWISE

    def pull(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows,)


@builds(
    nn.Flatten,
    nn.Unflatten,
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.unflatten,
    "view",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "unflatten",
)
def _reshape(
    shape: Shape, module: nn.Module | None, x: Value, *_: object, **__: object
) -> Template:
    # The sizes asked for were resolved when shapes were propagated; only the batch is free.
    return Template((x,), lambda: Reshape(shape))


@builds(nn.Identity, "contiguous", "clone")
def _identity(
    shape: Shape, module: nn.Module | None, input: Value, *_: object, **__: object
) -> Template:
    return Template((input,), Identity)


@builds(nn.Dropout, nn.Dropout2d)
def _dropout_module(shape: Shape, module: nn.Module, input: Value) -> Template:
    return Template((input,), Identity, noise=module)


@builds(F.dropout, F.dropout2d)
def _dropout(
    shape: Shape,
    module: None,
    input: Value,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Template:
    if training:
        raise UnsupportedOperator(
            "F.dropout traced with training=True; put the model in eval mode, or use "
            "nn.Dropout, whose mode is read at every call"
        )
    return Template((input,), Identity)


def _reshape_cases(generator: torch.Generator) -> list[Case]:
    return [
        Case(Reshape((12,)), ((3, 2, 2),)),
        Case(Reshape((12,), pixel_major=True), ((3, 2, 2),)),
        Case(Reshape((2, 6)), ((12,),)),
    ]


def _identity_cases(generator: torch.Generator) -> list[Case]:
    return [Case(Identity(), ((5,),))]


register(Entry("reshape", "flatten, view, reshape, squeeze", _reshape_cases))
register(Entry("identity", "identity; dropout when evaluated", _identity_cases))
