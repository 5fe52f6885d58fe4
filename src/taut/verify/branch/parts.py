"""Sub-problems: parts of an image's region, many at once, as rows of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from taut.operators.base import Shape
from taut.operators.forms import Bounds
from taut.region import Box

NONE = -1
"""In place of a node: no split, no candidate."""


@dataclass(frozen=True, eq=False)
class Splits:
    """What holds in each part besides its image's box: ``lower <= z <= upper`` of neurons.

    All have shape ``(N, D)``; node 0 is the input, whose neurons are pixels, and node -1 fills
    up rows of fewer splits. ``beta`` is the multiplier a bound was found with.
    """

    node: Tensor
    neuron: Tensor
    lower: Tensor
    upper: Tensor
    beta: Tensor


@dataclass(frozen=True, eq=False)
class Choices:
    """Where a part may be split next, the best first: ``(N, C)`` each, node -1 where nowhere.

    The left half ends at ``left``, the right one begins at ``right``.
    """

    node: Tensor
    neuron: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class Parts:
    """Some sub-problems.

    Attributes
    ----------
    image
        Whose region each is a part of, int64 ``(N,)``.
    proved
        Lower bounds of its margins, ``(N, K)``, +inf at the true class.
    splits
        The constraints that make it.
    choices
        How to split it next.
    mixes
        The mixes of lines its worst margin was bounded with, ``(N, M)``, or those of the part it
        comes from; see :class:`~taut.verify.branch.climb.Layout`.
    kept
        Bounds of neurons where an open margin could still fail, ``(N, M)``, or no columns where
        none are known; see :class:`~taut.verify.branch.known.Table`.
    """

    image: Tensor
    proved: Tensor
    splits: Splits
    choices: Choices
    mixes: Tensor
    kept: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor) -> Parts:
        return Parts(
            self.image[index],
            self.proved[index],
            Splits(*(value[index] for value in _values(self.splits))),
            Choices(*(value[index] for value in _values(self.choices))),
            self.mixes[index],
            self.kept[index],
        )

    @property
    def worst(self) -> Tensor:
        """The least bound of each part, ``(N,)``."""
        return self.proved.amin(1)

    def ends(self, node: int, shape: Shape) -> Bounds | None:
        """Return what the splits say of a node, ``(N, *shape)``, -inf and +inf where nothing."""
        splits = self.splits
        here = splits.node == node
        if not bool(here.any()):
            return None
        size = (len(self), math.prod(shape))
        blank = splits.lower.new_full(size, -math.inf)
        lower = splits.lower.where(here, -math.inf)
        upper = splits.upper.where(here, math.inf)
        neuron = splits.neuron.where(here, 0)
        return Bounds(
            blank.scatter_reduce(1, neuron, lower, "amax").view(-1, *shape),
            blank.neg().scatter_reduce(1, neuron, upper, "amin").view(-1, *shape),
        )

    def box(self, whole: Box) -> Box:
        """Return the boxes of the parts; ``whole`` holds those of the images."""
        box = whole[self.image]
        ends = self.ends(0, tuple(whole.shape[1:]))
        if ends is None:
            return box
        return Box(torch.maximum(box.lower, ends.lower), torch.minimum(box.upper, ends.upper))

    def halves(self, choice: Tensor) -> Parts:
        """Split each part at one of its choices, ``(N,)``: all left halves, then the right ones."""
        at = choice.unsqueeze(1)
        node, neuron, left, right = (v.gather(1, at) for v in _values(self.choices))
        infinite = torch.full_like(left, math.inf)

        def half(lower: Tensor, upper: Tensor) -> Parts:
            added = Splits(node, neuron, lower, upper, torch.zeros_like(lower))
            pairs = zip(_values(self.splits), _values(added), strict=True)
            return replace(self, splits=Splits(*(torch.cat(pair, 1) for pair in pairs)))

        return joined([half(-infinite, left), half(right, infinite)])


def whole(image: Tensor, proved: Tensor, like: Tensor) -> Parts:
    """Return whole regions as parts without splits, whose ends will be numbers as ``like``."""
    count = len(image)
    nodes, numbers = image.new_zeros(count, 0), like.new_zeros(count, 0)
    splits = Splits(nodes, nodes, numbers, numbers, numbers)
    return Parts(image, proved, splits, Choices(nodes, nodes, numbers, numbers), numbers, numbers)


def joined(parts: list[Parts]) -> Parts:
    """Return several lots of parts as one; shorter rows of splits and choices are filled up."""
    deepest = max(part.splits.node.shape[1] for part in parts)
    widest = max(part.choices.node.shape[1] for part in parts)
    splits = [_padded(_values(part.splits), deepest) for part in parts]
    choices = [_padded(_values(part.choices), widest) for part in parts]
    return Parts(
        torch.cat([part.image for part in parts]),
        torch.cat([part.proved for part in parts]),
        Splits(*(torch.cat(column) for column in zip(*splits, strict=True))),
        Choices(*(torch.cat(column) for column in zip(*choices, strict=True))),
        torch.cat([part.mixes for part in parts]),
        torch.cat([part.kept for part in parts]),
    )


def _values(of: Splits | Choices) -> list[Tensor]:
    return [getattr(of, field.name) for field in fields(of)]


def _padded(values: list[Tensor], width: int) -> list[Tensor]:
    """Return columns added up to ``width``: node -1, else 0."""
    missing = width - values[0].shape[1]
    if missing == 0:
        return values
    filled = [torch.nn.functional.pad(value, (0, missing)) for value in values]
    filled[0][:, width - missing :] = NONE
    return filled
