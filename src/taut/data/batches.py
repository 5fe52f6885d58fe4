"""Mini-batches out of a set that lies on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from taut.data.augment import Augment
from taut.data.images import ImageSet, as_pixels
from taut.errors import ConfigError, DataError


def steps(count: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many batches :func:`batches` yields for ``count`` images.

    Examples
    --------
    >>> steps(10, 4), steps(10, 4, drop_last=True)
    (3, 2)

    """
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1 image; got {batch_size}")
    return count // batch_size if drop_last else -(-count // batch_size)


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    shuffle: torch.Generator | None = None,
    drop_last: bool = False,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Go through a set once, in batches.

    All randomness comes from ``shuffle``: the order of the images, drawn when this function
    is called, then the augmentation of each batch, drawn when the batch is made. A caller
    that restores the generator's state gets the same batches again, on every device.

    Parameters
    ----------
    images
        The set.
    batch_size
        Images a batch; the last one may be smaller.
    shuffle
        Generator of the order; ``None`` keeps the order of the set.
    drop_last
        Leave out a last batch that is not full.
    augment
        Augmentation; it needs ``shuffle``.

    Yields
    ------
    x, y, index
        Pixels ``(B, C, H, W)``, float32 from 0 to 1; labels ``(B,)``; positions of the images
        in the set ``(B,)``, int64. All on the device of the set.

    Raises
    ------
    ConfigError
        When the batch size is below 1, or there is an augmentation but no generator.
    DataError
        When the set has too few images for a single batch.

    """
    count = steps(len(images), batch_size, drop_last=drop_last)
    if augment is not None and shuffle is None:
        raise ConfigError("augmentation draws from the generator `shuffle`; pass one")
    if count == 0:
        raise DataError(
            f"{images.name} {images.split} has {len(images)} images, too few for one batch of "
            f"{batch_size}; lower the batch size"
        )
    if shuffle is None:
        order = torch.arange(len(images), device=images.device)
    else:
        drawn = torch.randperm(len(images), generator=shuffle, device=shuffle.device)
        order = drawn.to(images.device)
    return _generate(images, torch.split(order[: count * batch_size], batch_size), shuffle, augment)


def _generate(
    images: ImageSet,
    indices: tuple[Tensor, ...],
    generator: torch.Generator | None,
    augment: Augment | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for index in indices:
        chosen = images.images[index]
        if augment is not None and generator is not None:
            chosen = augment(chosen, generator)
        yield as_pixels(chosen), images.labels[index], index
