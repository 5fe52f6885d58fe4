"""Images, and signals as images of height one: what layers with windows are built from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taut.errors import UnsupportedOperator
from taut.operators.base import Pair, Shape
from taut.operators.combine import Call, Combine
from taut.operators.registry import Inner, Live, Template, Value

Sizes = int | Sequence[int]
"""A size as PyTorch takes it: one for all axes, or one for each."""


def as_pair(value: Sizes) -> Pair:
    """Return one size for both axes of an image, or the two given."""
    if isinstance(value, int):
        return (value, value)
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def along(value: Sizes, other: int) -> Pair:
    """Return a size along a signal as sizes of its image of height one."""
    return other, value if isinstance(value, int) else value[0]


def image(x: Value, what: str) -> Value:
    """Return ``x`` if it holds images, one ``(C, H, W)`` per element of the batch."""
    if len(x.shape) != 3:
        raise UnsupportedOperator(
            f"of a node of shape {x.shape}; {what} takes (channels, height, width)"
        )
    return x


def as_image(x: Value, what: str) -> Inner:
    """Return signals ``(C, L)`` as images of height one, in front of what follows."""
    if len(x.shape) != 2:
        raise UnsupportedOperator(f"of a node of shape {x.shape}; {what} takes (channels, length)")
    channels, length = x.shape
    shape = (channels, 1, length)
    return Inner(Template((x,), lambda: Combine(Call(torch.unsqueeze, (2,)))), shape)


def from_image(template: Template, shape: Shape) -> Template:
    """Return a template of images of height one as one of signals of ``shape``."""
    inner = Inner(template, (shape[0], 1, shape[1]))
    return Template((inner,), lambda: Combine(Call(torch.squeeze, (2,))))


def heightened(weight: Live) -> Live:
    """Return the kernel of a signal, ``(O, C, k)``, as one of images, ``(O, C, 1, k)``."""
    return lambda: weight().unsqueeze(2)
