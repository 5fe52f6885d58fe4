"""The margins of the true class over the others.

An image is proved when every margin ``z_y - z_j``, j != y, has a lower bound above
zero. The rows of the specification are ``e_y - e_j``; bounds of them come back
padded to ``(B, K)`` with +inf in the true column, so ``lower.amin(1) > 0`` means
proved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taut.errors import DataError


def margin_rows(y: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return the K - 1 rows ``e_y - e_j`` per image, j ascending without y.

    Shape ``(B, K - 1, K)``, with type and device of ``like``.
    """
    eye = torch.eye(classes, dtype=like.dtype, device=like.device)
    # others[c] lists the classes other than c, ascending.
    ids = torch.arange(classes - 1, device=like.device)
    others = ids + (ids >= torch.arange(classes, device=like.device)[:, None]).long()
    return (eye[:, None] - eye[others])[y]


def pad_true_class(lower: Tensor, y: Tensor) -> Tensor:
    """Widen ``(B, K - 1)`` margin bounds to ``(B, K)`` with +inf in the true column."""
    batch, others = lower.shape
    ids = torch.arange(others + 1, device=lower.device)
    # Column j of the result is row j, or row j - 1 beyond the true class.
    source = (ids - (ids > y[:, None]).long()).clamp_(max=others - 1)
    padded = lower.gather(1, source.expand(batch, others + 1))
    return padded.masked_fill(ids == y[:, None], float("inf"))


def true_margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``z_y - z_j`` at points, shape ``(B, K)``, +inf in the true column."""
    margins = logits.gather(1, y[:, None]) - logits
    return margins.scatter(1, y[:, None], float("inf"))


def check_labels(y: Tensor, classes: int, count: int) -> None:
    """Raise :class:`DataError` unless ``y`` holds ``count`` labels in 0 .. classes - 1."""
    if y.shape != (count,) or y.is_floating_point() or y.dtype == torch.bool:
        raise DataError(
            f"labels must be one whole number per image, shape ({count},); "
            f"got {y.dtype} of shape {tuple(y.shape)}"
        )
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"label {int(y[first])} of image {first} is out of range: the model has {classes} "
            f"classes, 0 to {classes - 1}"
        )
