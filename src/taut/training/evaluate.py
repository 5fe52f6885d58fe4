"""Figures of a network in evaluation mode on held-out images, never on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.attacks import PGD
from taut.bounds import interval, method_named
from taut.data import ImageSet
from taut.data.images import as_pixels
from taut.graph import Graph, Network
from taut.operators.base import Activation
from taut.operators.leaky import Abs, LeakyReLU
from taut.operators.ramp import Ramp
from taut.operators.relu import ReLU
from taut.region import Box

CHUNK = 512
"""Images bounded at a time."""

WATCHED = 1000
"""The first so many images are asked for unstable neurons."""

WATCHED_CHUNK = 64
"""Of these, images at a time: all bounds of the network are kept for them."""

ATTACK = PGD(steps=10)


@dataclass(eq=False)
class _Seen:
    """Which neurons of an activation were on the slope's side of a knee, over all images."""

    operator: Activation
    rose: Tensor
    fell: Tensor

    def look(self, z: Tensor) -> None:
        """Take in a batch of inputs ``(B, *shape)``."""
        low, high = _knees(self.operator, z)
        if low is not None:
            self.rose |= (z > low).any(0)
        if high is not None:
            self.fell |= (z < high).any(0)


class _Watch:
    """Evaluates a network and notes the inputs of its piecewise activations."""

    def __init__(self, network: Network, like: Tensor) -> None:
        self.network = network
        self.seen: dict[int, _Seen] = {}
        for node in network.nodes:
            if (
                isinstance(node.operator, ReLU | LeakyReLU | Ramp)
                and type(node.operator) is not Abs
            ):
                low, high = _knees(node.operator, like)
                shape = network.nodes[node.inputs[0]].shape
                start = [
                    torch.full(shape, knee is None, dtype=torch.bool, device=like.device)
                    for knee in (low, high)
                ]
                self.seen[node.index] = _Seen(node.operator, *start)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of points ``(B, *shape)``."""
        values: list[Tensor] = [x]
        for node in self.network.nodes[1:]:
            assert node.operator is not None
            if node.index in self.seen:
                self.seen[node.index].look(values[node.inputs[0]])
            values.append(node.operator.forward(*(values[i] for i in node.inputs)))
        return values[-1]


def _knees(operator: Activation, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the knee left of which an activation is flat, and the one right of which it is."""
    if not isinstance(operator, Ramp):
        return like.new_zeros(()), None
    return (
        None if operator.low is None else operator.low.to(like),
        None if operator.high is None else operator.high.to(like),
    )


@torch.no_grad()
def validate(
    graph: Graph,
    images: ImageSet,
    eps: float,
    certifiers: Sequence[str],
    *,
    attack_images: int = 0,
    part: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, float]:
    """Return accuracies and the state of the neurons.

    The model is put into evaluation mode and left there. An image is certified when it is
    classified correctly and one of the bounding methods proves every margin on its ball.

    ``natural_accuracy``, ``certified_accuracy`` and the accuracy each bounding method reaches with
    those before it are fractions of all images. ``attacked_accuracy`` is the fraction of the
    first ``attacked_images`` images that are classified correctly and at every iterate of a PGD
    attack of 10 steps. ``unstable_share`` is the share of activation inputs that can lie on both
    sides of a knee, by interval bounds at ``eps``, over the first 1000 images at most; cells of a
    grid are no neurons.
    ``dead_share_k``, for the k-th activation that is flat beyond a knee (ReLU, leaky ReLU, ramps),
    is the share of its neurons that lie beyond the same knee on every image: z <= 0, or z >= r.

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
    attack_images
        How many images to attack, the first ones; 0 for none.
    part
        ``(rank, world)``: this process takes every world-th image.
    reduce
        Sums a tensor over all processes.

    """
    graph.module.eval()
    network = graph.instance().detached()
    rank, world = part
    like = next(graph.module.parameters())
    watch = _Watch(network, like)
    counts = torch.zeros(4 + len(certifiers), dtype=torch.float64, device=like.device)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK][rank::world]
        if len(chunk) == 0:
            continue
        number = torch.arange(start, min(start + CHUNK, len(images)))[rank::world]
        x, y = as_pixels(chunk.images).to(like.dtype), chunk.labels
        open_ = watch(x).argmax(1) == y
        counts[3] += open_.sum()
        attacked = (number < attack_images).to(open_.device) & open_
        counts[0] += _resisting(network, x[attacked], y[attacked], eps, number[attacked.cpu()])
        counts[1:3] += _bending(network, x[(number < WATCHED).to(x.device)], eps)
        for column, name in enumerate(certifiers, start=4):
            index = open_.nonzero().flatten()
            if len(index) == 0:
                break
            box = Box.around(x[index], eps)
            margins = method_named(name).margins(network, box, y[index])
            proved = margins.amin(1) > 0
            counts[column] += proved.sum()
            open_[index[proved]] = False
    flags = [side.flatten() for seen in watch.seen.values() for side in (seen.rose, seen.fell)]
    packed = reduce(torch.cat([counts, *(flag.double() for flag in flags)]))
    figures, *seen = packed.split([len(counts), *map(len, flags)])
    accuracies = _accuracies(figures.tolist(), certifiers, len(images), attack_images)
    return accuracies | _dead(seen) | {"eps": eps}


def _accuracies(
    counts: Sequence[float], certifiers: Sequence[str], images: int, attack_images: int
) -> dict[str, float]:
    """Return the figures by name from the sums over all processes."""
    resisting, bending, inputs, natural, *proved_by = counts
    found = {
        "natural_accuracy": natural / images,
        "certified_accuracy": sum(proved_by) / images,
    }
    for column, name in enumerate(certifiers, start=1):
        # what this method proves together with the ones before it
        found[f"{name.replace('-', '_')}_accuracy"] = sum(proved_by[:column]) / images
    if attack_images > 0:
        found["attacked_images"] = min(attack_images, images)
        found["attacked_accuracy"] = resisting / found["attacked_images"]
    if inputs > 0:
        found["unstable_share"] = bending / inputs
    return found


def _dead(seen: Sequence[Tensor]) -> dict[str, float]:
    """Return the share of dead neurons from how many processes saw a neuron rise, and fall."""
    pairs = zip(seen[::2], seen[1::2], strict=True)
    return {
        f"dead_share_{place}": float(((rose == 0) | (fell == 0)).double().mean())
        for place, (rose, fell) in enumerate(pairs, start=1)
    }


def _resisting(network: Network, x: Tensor, y: Tensor, eps: float, seeds: Tensor) -> int:
    """Return how many images, classified correctly, the attack leaves so."""
    if len(x) == 0:
        return 0
    found = ATTACK(network, x, y, Box.around(x, eps), seeds=seeds)
    return len(x) - int(found.success.sum())


def _bending(network: Network, x: Tensor, eps: float) -> Tensor:
    """Return how many activation inputs can lie on both sides of a knee, and how many there are."""
    counts = torch.zeros(2, dtype=torch.float64, device=x.device)
    for part in x.split(WATCHED_CHUNK) if len(x) else ():
        known = interval.propagate(network, Box.around(part, eps))
        for node in network.nodes:
            if isinstance(node.operator, Activation) and not node.operator.jumps:
                bends = node.operator.bends(known.at(node.inputs[0]))
                counts += torch.stack(
                    [bends.sum(), bends.new_tensor(bends.numel(), dtype=counts.dtype)]
                )
    return counts
