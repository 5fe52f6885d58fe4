"""The losses that training methods are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def true_column(scores: Tensor, y: Tensor) -> Tensor:
    """Return the boolean mask ``(B, K)`` of each image's own class."""
    classes = torch.arange(scores.shape[1], device=scores.device)
    return y[:, None] == classes


def robust_cross_entropy(margins: Tensor, y: Tensor) -> Tensor:
    r"""Return the cross-entropy of the worst logits a margin bound allows, one per image.

    .. math:: \mathrm{CE}(-l, y) = \log\Bigl(1 + \sum_{j \ne y} e^{-l_j}\Bigr),\qquad l_y := 0

    The true class's column is replaced before anything is computed with it, so its ``+inf``
    reaches neither the value nor the gradient.

    Parameters
    ----------
    margins
        Lower bounds ``l`` of the margins ``z_y - z_j``, shape ``(B, K)``; column ``y`` is ignored.
    y
        Labels, shape ``(B,)``.

    References
    ----------
    Wong and Kolter, *Provable defenses against adversarial examples* (2018), Theorem 2.

    """
    padded = margins.masked_fill(true_column(margins, y), 0.0)
    return F.cross_entropy(-padded, y, reduction="none")


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of images classified correctly, a detached scalar."""
    return (logits.detach().argmax(1) == y).double().mean()


def proved(margins: Tensor) -> Tensor:
    """Return the share of images whose margin bounds are all positive, a detached scalar."""
    return (margins.detach().amin(1) > 0).double().mean()
