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
        Augmentation; it needs ``shuffle``. With a ``crop`` it reads the margin of the set, where
        there is one; anything else sees the images without it.

    Yields
    ------
    x, y, index
        Pixels ``(B, C, H, W)``, float32 from 0 to 1; labels ``(B,)``; positions of the images
        in the set ``(B,)``, int64. All on the device of the set.

    Raises
    ------
    ConfigError
        When the batch size is below 1, there is an augmentation but no generator, or it makes
        images of another size than the set's.
    DataError
        When the set has too few images for a single batch, or too small ones for the crop.

    """
    count = steps(len(images), batch_size, drop_last=drop_last)
    if augment is not None and shuffle is None:
        raise ConfigError("augmentation draws from the generator `shuffle`; pass one")
    if augment is not None:
        made, seen = augment.size(_source(images, augment)[:1]), images.shape[1:]
        if made != seen:
            raise ConfigError(
                f"the augmentation makes {made[0]} x {made[1]} pixels of {images.name}, whose "
                f"images have {seen[0]} x {seen[1]}; choose another augmentation or data set"
            )
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


def _source(images: ImageSet, augment: Augment | None) -> Tensor:
    """Return what an augmentation reads: the images, with their margin for a random crop."""
    cropped = augment is not None and augment.crop is not None
    return images.wide if cropped and images.wide is not None else images.images


def _generate(
    images: ImageSet,
    indices: tuple[Tensor, ...],
    generator: torch.Generator | None,
    augment: Augment | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    source = _source(images, augment)
    for index in indices:
        chosen = source[index]
        if augment is not None and generator is not None:
            chosen = augment(chosen, generator)
        yield as_pixels(chosen), images.labels[index], index
