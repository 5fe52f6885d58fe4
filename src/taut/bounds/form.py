"""Rows of linear forms at a node: dense, or as windows of pixels that hold all that is not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.operators.base import Reach

Range = tuple[int, int]

_WORTHWHILE = 0.6  # share of an image up to which a window beats the whole


@dataclass(frozen=True, eq=False)
class Window:
    """Where a group's window of rows begins in its image; it may stick out of the image.

    ``top`` and ``left`` have shape ``(N,)``; ``rows`` and ``columns`` are the least and the
    largest value that they can have, known without looking at them.
    """

    top: Tensor
    left: Tensor
    rows: Range
    columns: Range

    def reached(self, reach: Reach) -> Window:
        """Return the window of inputs that this window of outputs reads."""
        (s, t), (p, q) = reach.stride, reach.padding
        if (s, t, p, q) == (1, 1, 0, 0):
            return self
        return Window(
            self.top * s - p,
            self.left * t - q,
            (self.rows[0] * s - p, self.rows[1] * s - p),
            (self.columns[0] * t - q, self.columns[1] * t - q),
        )

    def leaves(self, size: tuple[int, int], image: tuple[int, int]) -> bool:
        """Whether a window of ``size`` can stick out of an image."""
        return (
            min(self.rows[0], self.columns[0]) < 0
            or self.rows[1] + size[0] > image[0]
            or self.columns[1] + size[1] > image[1]
        )

    def margins(self, size: tuple[int, int], image: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the padding (left, right, top, bottom) that holds every window."""
        return (
            max(0, -self.columns[0]),
            max(0, self.columns[1] + size[1] - image[1]),
            max(0, -self.rows[0]),
            max(0, self.rows[1] + size[0] - image[0]),
        )


@dataclass(frozen=True, eq=False)
class Form:
    """Coefficients ``(N, R, *node shape)``, or ``(N, R, C, h, w)`` on one window per group."""

    rows: Tensor
    window: Window | None = None
    own: bool = False
    """Whether nobody else holds the rows, so that they may be overwritten."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.rows.shape[3], self.rows.shape[4]

    def __add__(self, other: Form) -> Form:
        """Add forms at one node; windows that overlap in one way only are widened."""
        if self.window is None and other.window is None:
            return Form(self.rows + other.rows, own=True)
        assert self.window is not None
        assert other.window is not None
        down = other.window.rows[0] - self.window.rows[0]
        right = other.window.columns[0] - self.window.columns[0]
        (h, w), (height, width) = self.size, other.size
        top, left = min(0, down), min(0, right)
        bottom, far = max(h, down + height), max(w, right + width)
        mine = F.pad(self.rows, (-left, far - w, -top, bottom - h))
        theirs = F.pad(
            other.rows, (right - left, far - right - width, down - top, bottom - down - height)
        )
        where = self.window.reached(Reach((1, 1), (-top, -left), (1, 1)))
        return Form(mine + theirs, where, own=True)

    def joins(self, other: Form) -> bool:
        """Whether the sum with another form can be had without making both dense."""
        a, b = self.window, other.window
        if a is None or b is None:
            return a is b
        return (a.rows[1] - a.rows[0], a.columns[1] - a.columns[0]) == (
            b.rows[1] - b.rows[0],
            b.columns[1] - b.columns[0],
        )

    def dense(self, shape: tuple[int, ...]) -> Form:
        """Return the form on all pixels of a node of ``shape``; what sticks out is dropped."""
        if self.window is None:
            return self
        groups, count = self.rows.shape[:2]
        left, right, top, bottom = self.window.margins(self.size, (shape[1], shape[2]))
        height, width = shape[1] + top + bottom, shape[2] + left + right
        index = _pixels(self.window, self.size, (top, left), width)
        each = torch.arange(groups * count, device=index.device).view(groups, count, 1, 1)
        index = index[:, None] + each * (height * width)
        flat = self.rows.new_zeros(groups * count * height * width, shape[0])
        flat = flat.index_copy(
            0, index.reshape(-1), self.rows.permute(0, 1, 3, 4, 2).reshape(-1, shape[0])
        )
        whole = flat.view(groups, count, height, width, shape[0])
        whole = whole[:, :, top : top + shape[1], left : left + shape[2]]
        return Form(whole.permute(0, 1, 4, 2, 3), own=True)

    def worthwhile(self, shape: tuple[int, ...]) -> bool:
        """Whether the window is small enough against a node of ``shape`` to be kept."""
        h, w = self.size
        return h * w <= _WORTHWHILE * shape[1] * shape[2]

    def inside(self, shape: tuple[int, ...]) -> Form:
        """Return the form with zeros where its window sticks out of a node of ``shape``."""
        if self.window is None or not self.window.leaves(self.size, (shape[1], shape[2])):
            return self
        ones = self.rows.new_ones(1, 1, *shape[1:])
        nobody = torch.zeros_like(self.window.top)
        mask = pick(ones, nobody, self.window, self.size)
        return Form(self.rows * mask.unsqueeze(1), self.window, own=True)


def _pixels(window: Window, size: tuple[int, int], offset: tuple[int, int], width: int) -> Tensor:
    """Return the flat position of each window's pixels in padded images, ``(N, h, w)``."""
    device = window.top.device
    y = (window.top + offset[0])[:, None] + torch.arange(size[0], device=device)
    x = (window.left + offset[1])[:, None] + torch.arange(size[1], device=device)
    return y[:, :, None] * width + x[:, None, :]


def pick(
    tensor: Tensor, samples: Tensor | None, window: Window | None, size: tuple[int, int]
) -> Tensor:
    """Return each group's part of a tensor ``(B, *shape)``: ``(N, *shape)`` or ``(N, C, h, w)``.

    Pixels outside the image are zero.
    """
    if window is None:
        return tensor if samples is None else tensor[samples]
    left, right, top, bottom = window.margins(size, (tensor.shape[2], tensor.shape[3]))
    padded = F.pad(tensor, (left, right, top, bottom)) if left + right + top + bottom else tensor
    height, width = padded.shape[2:]
    index = _pixels(window, size, (top, left), width)
    if samples is not None:
        index = index + samples[:, None, None] * (height * width)
    else:
        index = index + torch.arange(len(index), device=index.device)[:, None, None] * (
            height * width
        )
    vectors = padded.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])
    found = vectors.index_select(0, index.reshape(-1))
    return found.view(*index.shape, tensor.shape[1]).permute(0, 3, 1, 2)
