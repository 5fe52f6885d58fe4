"""Accuracies of a network in evaluation mode on held-out images, never on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from taut.bounds import method_named
from taut.data import ImageSet
from taut.data.images import as_pixels
from taut.graph import Graph
from taut.region import Box

CHUNK = 512
"""Images bounded at a time."""


@torch.no_grad()
def validate(
    graph: Graph,
    images: ImageSet,
    eps: float,
    certifiers: Sequence[str],
    *,
    part: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, float]:
    """Return natural and certified accuracy, as fractions of all images.

    The model is put into evaluation mode and left there. An image is certified when it is
    classified correctly and one of the bounding methods proves every margin on its ball.

    Parameters
    ----------
    graph
        The traced model.
    images
        Held-out images on the model's device.
    eps
        Radius in pixels of [0, 1].
    certifiers
        Names of bounding methods, tried in order on the images not yet certified.
    part
        ``(rank, world)``: this process takes every world-th image.
    reduce
        Sums a tensor over all processes.

    """
    graph.module.eval()
    network = graph.instance()
    rank, world = part
    like = next(graph.module.parameters())
    counts = torch.zeros(1 + len(certifiers), dtype=torch.float64, device=like.device)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK][rank::world]
        if len(chunk) == 0:
            continue
        x, y = as_pixels(chunk.images).to(like.dtype), chunk.labels
        open_ = network(x).argmax(1) == y
        counts[0] += open_.sum()
        for column, name in enumerate(certifiers, start=1):
            index = open_.nonzero().flatten()
            if len(index) == 0:
                break
            box = Box.around(x[index], eps)
            margins = method_named(name).margins(network, box, y[index])
            proved = margins.amin(1) > 0
            counts[column] += proved.sum()
            open_[index[proved]] = False
    natural, *proved_by = reduce(counts).tolist()
    accuracies = {
        "natural_accuracy": natural / len(images),
        "certified_accuracy": sum(proved_by) / len(images),
    }
    for column, name in enumerate(certifiers, start=1):
        # what this method proves together with the ones before it
        together = sum(proved_by[:column]) / len(images)
        accuracies[f"{name.replace('-', '_')}_accuracy"] = together
    return accuracies | {"eps": eps}
