"""Fixed splits that no library version can change.

Image ``i`` of part ``p`` of data set ``d`` has the key ``SHA-256("d/p/i")``, with ``i`` in
decimal; ``d`` is the family of a set that shares its files with others. The first 16 bytes of
the key rank the images when a part is cut into pieces; the last 16 bytes give the order in
which a piece is handed out. Random-number generators are not promised to give the same
permutation for ever; SHA-256 is a published standard (FIPS 180-4), so these splits can be
computed again in any language.

A part is cut class by class: within a class, images by rank go to the first piece, then
to the second, and so on. Every piece after the first gets
``size * (images of the class) / (images of the part)`` images of each class, rounded by
largest remainder (ties to the lower class) so that its size is exact. A split made of
pieces comes in the second order, so its first n images are a fair sample of it even
where the file is sorted by class; a whole part comes in file order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from taut.data.describe import Dataset, Split
from taut.errors import DataError

Indices = NDArray[np.int64]


def fixed_orders(count: int, salt: str) -> tuple[Indices, Indices]:
    """Return two permutations of ``0 .. count - 1``, by the halves of ``SHA-256(f"{salt}/{i}")``.

    The first ranks images, the second is the order they are handed out in.
    """
    prefix = sha256(f"{salt}/".encode())

    def key(index: int) -> bytes:
        digest = prefix.copy()
        digest.update(str(index).encode())
        return digest.digest()

    keys = [key(index) for index in range(count)]
    by_rank = sorted(range(count), key=lambda index: keys[index][:16])
    handed_out = sorted(range(count), key=lambda index: keys[index][16:])
    return np.array(by_rank, dtype=np.int64), np.array(handed_out, dtype=np.int64)


def quotas(counts: Indices, size: int) -> Indices:
    """Share ``size`` images among classes in proportion to ``counts``, by largest remainder."""
    exact, rest = np.divmod(counts * size, counts.sum())
    leftover = size - int(exact.sum())
    # A stable sort of the negated remainders gives ties to the lower class.
    exact[np.argsort(-rest, kind="stable")[:leftover]] += 1
    return exact


def cut(labels: Indices, sizes: Sequence[int], by_rank: Indices) -> Indices:
    """Cut a part into stratified pieces.

    Parameters
    ----------
    labels
        Labels of the part, shape ``(N,)``.
    sizes
        Sizes of the pieces; they add up to N.
    by_rank
        Permutation of ``0 .. N - 1``: the images by rank.

    Returns
    -------
    array ``(N,)``
        For each image the number of its piece.

    Raises
    ------
    DataError
        When the sizes do not add up to N or a class is too small for its share.

    """
    if sum(sizes) != len(labels):
        raise DataError(f"a part of {len(labels)} images cannot be cut into {sum(sizes)}")
    counts = np.bincount(labels)
    shares = [quotas(counts, size) for size in sizes[1:]]
    first = counts - sum(shares, np.zeros_like(counts))
    if (first < 0).any():
        raise DataError(f"class {int(first.argmin())} has too few images to be cut so finely")
    pieces = np.empty_like(by_rank)
    ranked = labels[by_rank]
    for label, share in enumerate(np.stack([first, *shares], axis=1)):
        pieces[by_rank[ranked == label]] = np.repeat(np.arange(len(sizes)), share)
    return pieces


def members(dataset: Dataset, split: Split, labels: Indices) -> Indices | None:
    """Return which images of the part make up a split, in order; None for the whole part.

    Of a part with fewer images than were published, the pieces are as much smaller.
    """
    if not split.pieces:
        return None
    sizes, whole = dataset.cuts[split.part], dataset.part_size(split.part)
    if len(labels) < whole:
        later = [max(1, size * len(labels) // whole) for size in sizes[1:]]
        if sum(later) >= len(labels):
            raise DataError(
                f"the {split.part} part of {dataset.name} has {len(labels)} images here, too few "
                f"to split into {len(sizes)}; add images"
            )
        sizes = (len(labels) - sum(later), *later)
    salt = f"{dataset.family or dataset.name}/{split.part}"
    by_rank, handed_out = fixed_orders(len(labels), salt)
    pieces = cut(labels, sizes, by_rank)
    return handed_out[np.isin(pieces[handed_out], split.pieces)]
