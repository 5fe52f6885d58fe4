"""What an attack climbs, and the margin that decides its success."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["ce", "margin"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""Return the margin of the true class over the best other class.

    .. math:: z_y - \max_{j \ne y} z_j

    Negative means misclassified; a tie is zero and counts as neither broken nor proved.

    Parameters
    ----------
    logits
        Shape (B, K), K at least 2.
    y
        Labels (B,), int64.

    Returns
    -------
    Tensor
        Shape (B,); NaN where a logit is NaN.
    """
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return true[:, 0] - others.amax(1)


def ranked_targets(logits: Tensor, y: Tensor, count: int | None) -> Tensor:
    """Return the wrong classes from the most to the least likely, shape (B, count or K - 1)."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    order = torch.sort(others, dim=1, descending=True, stable=True).indices
    return order[:, : logits.shape[1] - 1][:, :count]


def objective(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    r"""Return what one run climbs, shape (B,).

    Cross-entropy without a target, else the targeted margin :math:`z_t - z_y`.
    """
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    both = logits.gather(1, torch.stack([target, y], 1))
    return both[:, 0] - both[:, 1]


def score(logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return what points of different runs are compared by, shape (B,); higher is worse.

    The cross-entropy, or the negative margin over all wrong classes.
    """
    return objective(logits, y, None) if loss == "ce" else -margin(logits, y)
