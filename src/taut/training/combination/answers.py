"""What combinations answer: totals with the figures to log."""

from __future__ import annotations

from torch import Tensor

from taut.training.combination.base import Attacked, Robust, Terms
from taut.training.losses import accuracy, proved
from taut.training.progress import Losses


def natural_alone(terms: Terms) -> Losses:
    """Return the natural loss, which is what an epoch of no radius trains on."""
    natural = terms.natural()
    rates = {"natural_accuracy": accuracy(terms.batch.logits, terms.batch.y)}
    return Losses(natural, {"natural": natural.detach()}, rates, terms.batch)


def answer(
    terms: Terms,
    total: Tensor,
    attacked: Attacked | None,
    robust: Robust | None,
    natural: Tensor | None = None,
) -> Losses:
    """Return ``total`` with the figures of the terms it was made of, None for those left out."""
    batch = terms.batch
    parts: dict[str, Tensor] = {}
    rates: dict[str, Tensor] = {}
    if natural is not None:
        parts["natural"] = natural.detach()
    logits = batch.logits if natural is not None else batch.known_logits
    if logits is not None:
        rates["natural_accuracy"] = accuracy(logits, batch.y)
    if attacked is not None:
        parts["adversarial"] = attacked.losses.detach().mean()
        rates["attacked_accuracy"] = accuracy(attacked.logits, batch.y)
    if robust is None:
        return Losses(total, parts, rates, batch)
    parts["robust"] = robust.loss.detach()
    if robust.bounded[-1].sound:
        rates["robust_accuracy"] = proved(robust.bounded[-1].margins)
    return Losses(total, parts, rates, batch, robust.bounded)
