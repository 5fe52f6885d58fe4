"""A certification whose images are spread over a pool of workers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor, nn

from taut.api.pool import Lost, Pool
from taut.data import ImageSet
from taut.verify import Cascade, Status, Verdict, certify
from taut.verify.cascade import BATCH_SIZE
from taut.verify.inputs import placement
from taut.verify.verdict import NO_PREDICTION, Evidence, conclude

LOST = "worker"
"""The reason of an image or instance whose worker died every time."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image on its way to a worker: position in its split, pixels ``(C, H, W)``, label."""

    index: int
    pixels: Tensor
    label: int


class Chosen(Sequence[Image]):
    """Some images of a set, each made when it is asked for."""

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image]: ...
    def __getitem__(self, place: int | slice) -> Image | list[Image]:
        """Return an image, or those of a slice."""
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        index = self._indices[place]
        pixels = self._images.pixels(index).cpu()
        return Image(index, pixels, int(self._images.labels[index]))


@dataclass(frozen=True, eq=False)
class Certifying:
    """What workers do with images; see :class:`taut.api.pool.Work`.

    Attributes
    ----------
    model
        On the CPU.
    device
        Where workers put it.
    eps, cascade
        As for :func:`taut.certify`.

    """

    model: nn.Module
    device: str
    eps: float
    cascade: Cascade

    def begin(self) -> Callable[[Sequence[Image], Callable[[int, Verdict], None]], None]:
        """See :class:`taut.api.pool.Work`."""
        model = self.model.to(self.device)

        def step(images: Sequence[Image], tell: Callable[[int, Verdict], None]) -> None:
            places = {image.index: place for place, image in enumerate(images)}
            certify(
                model,
                torch.stack([image.pixels for image in images]),
                torch.tensor([image.label for image in images]),
                self.eps,
                cascade=self.cascade,
                indices=list(places),
                on_verdict=lambda verdict: tell(places[verdict.index], verdict),
            )

        return step


def certify_with(
    pool: Pool,
    model: nn.Module,
    images: ImageSet,
    indices: Sequence[int],
    eps: float,
    cascade: Cascade,
    on_verdict: Callable[[Verdict], None],
) -> None:
    """Certify some images of a set by a pool's workers.

    Random starts depend on the seed and an image's index, as in one process; linear algebra may
    differ in the last bits between batches of other sizes. An image over which three workers died
    is evaluated once more by itself: it is misclassified, or unknown for the reason
    :data:`LOST`.

    Parameters
    ----------
    pool
        The workers.
    model
        Left as it is.
    images, indices
        A split and positions in it.
    eps, cascade
        As for :func:`taut.certify`; the batch size is that of a worker, by default 100. A pool
        that does not stream gets few images at a time, where complete verifiers take part one.
    on_verdict
        Called with each verdict as it comes.

    """
    device = str(placement(model)[0])
    held = model if device == "cpu" else copy.deepcopy(model).cpu()
    size = cascade.batch_size or BATCH_SIZE
    if not pool.streams:
        size = 1 if cascade.complete() else min(size, cascade.piece_size)

    def spread(what: Cascade, todo: Sequence[int]) -> list[int]:
        lost, work = [], Certifying(held, device, eps, what)
        with closing(pool.run(work, Chosen(images, todo), size)) as found:
            for place, verdict in found:
                if isinstance(verdict, Lost):
                    lost.append(todo[place])
                elif what is cascade or verdict.status != Status.UNKNOWN:
                    on_verdict(verdict)
                else:
                    on_verdict(_given_up(verdict.index, verdict.label, verdict.predicted))
        return lost

    lost = spread(cascade, indices)
    if lost:
        lost = spread(replace(cascade, stages=("clean",), timeout=None), lost)
    for index in lost:
        on_verdict(_given_up(index, int(images.labels[index]), NO_PREDICTION))


def _given_up(index: int, label: int, predicted: int) -> Verdict:
    return conclude(index, label, predicted, "clean", 0.0, Evidence(reason=LOST))
