"""What an attack climbs, and the margin that decides its success."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["ce", "margin", "kl"]


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


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    r"""Return how far the class probabilities of ``logits`` are from those of ``reference``.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_j p_j (\log p_j - \log q_j), \qquad
              p = \mathrm{softmax}(\text{reference}),\ q = \mathrm{softmax}(\text{logits})

    Gradients flow to both; it is at least 0, and 0 where the two are equal.

    Parameters
    ----------
    reference, logits
        Shape (B, K).

    Returns
    -------
    Tensor
        Shape (B,), in nats.
    """
    p, q = F.log_softmax(reference, 1), F.log_softmax(logits, 1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def objective(
    logits: Tensor, y: Tensor, target: Tensor | None, reference: Tensor | None = None
) -> Tensor:
    r"""Return what one run climbs, shape (B,).

    With the clean logits as ``reference``, the divergence from them; else cross-entropy without
    a target, and the targeted margin :math:`z_t - z_y` with one.
    """
    if reference is not None:
        return divergence(reference, logits)
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    both = logits.gather(1, torch.stack([target, y], 1))
    return both[:, 0] - both[:, 1]


def score(logits: Tensor, y: Tensor, loss: Loss, reference: Tensor | None = None) -> Tensor:
    """Return what points of different runs are compared by, shape (B,); higher is worse.

    What is climbed, or the negative margin over all wrong classes with the margin loss.
    """
    return -margin(logits, y) if loss == "margin" else objective(logits, y, None, reference)
