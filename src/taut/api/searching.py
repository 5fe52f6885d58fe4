"""``taut.attack``: look for a misclassified point near each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taut.attacks import PGD, Attack, Attacked, image_seeds
from taut.errors import ConfigError
from taut.region import PIXELS, Box, check_eps
from taut.verify.inputs import check_images, check_model, placement


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    attack: Attack = PGD(),  # noqa: B008 - frozen
    *,
    data_range: tuple[float, float] | None = PIXELS,
    seed: int = 0,
    batch_size: int = 500,
) -> Attacked:
    """Attack each image within its l_inf ball; every iterate is checked.

    The model runs in evaluation mode and is left as it was. What is found depends on the seed
    and on each image's position, not on the batches.

    Parameters
    ----------
    model
        Any differentiable classifier, ``(B, *shape)`` to logits ``(B, K)``.
    x
        Images ``(N, *shape)``, floating point, raw pixels.
    y
        Labels ``(N,)``, whole numbers from 0 to K - 1.
    eps
        Radius in pixel units of [0, 1].
    attack
        :class:`taut.PGD`, :class:`taut.FGSM`, or :class:`taut.Flips` for models with cells.
    data_range
        Pixel range the ball is clipped to; None leaves it whole.
    seed
        Of the random starts.
    batch_size
        Images attacked at a time.

    Returns
    -------
    Attacked
        ``point`` ``(N, *shape)``, ``success`` ``(N,)`` and ``margin`` ``(N,)``, on the model's
        device. An image that is misclassified as it is counts as a success. For replayed
        counterexamples call :func:`taut.certify` with the stages ``("clean", "attack")``.

    Raises
    ------
    RegionError
        When ``eps`` is negative, NaN or infinite.
    DataError
        When images are not finite or leave the pixel range, or labels do not fit.
    ModelError
        When the images do not fit the model, or it has no gradient.

    """
    radius = check_eps(eps)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1 image; got {batch_size}")
    check_images(x, data_range)
    device, dtype = placement(model)
    check_model(model, x[:1].detach().to(device, dtype), y, len(x))
    seeds = image_seeds(seed, range(len(x)))
    found = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        images = x[part].detach().to(device, dtype)
        labels = y[part].to(device).long()
        box = Box.around(images, radius, data_range)
        found.append(attack(model, images, labels, box, seeds=seeds[part]))
    return Attacked(
        torch.cat([part.point for part in found]),
        torch.cat([part.success for part in found]),
        torch.cat([part.margin for part in found]),
    )
