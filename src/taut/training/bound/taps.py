"""TAPS: intervals through the first layers, attacks through the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taut.attacks.starts import mix
from taut.bounds import Bounds, Intermediate, interval
from taut.errors import ConfigError
from taut.graph import Network
from taut.operators.base import channels_last
from taut.property import pad_true_class
from taut.region import Box
from taut.training.attack import TrainingAttack
from taut.training.bound.base import Bounded
from taut.training.bound.connector import connect
from taut.training.bound.shrink import check_factor, shrunk
from taut.training.bound.split import cut_node, tail
from taut.training.losses import robust_cross_entropy
from taut.training.progress import Progress

FULL = 1.0 - 1e-9
"""The share of eps_max from which on the ramp counts as over."""

SEARCH = ("steps", "step", "milestones", "restarts")
"""What can be chosen of the attack in the latent box."""


@dataclass(frozen=True)
class TAPS:
    r"""Margins estimated by attacks in the box that intervals give at a layer inside.

    The network is :math:`f_2 \circ f_1`. IBP gives the box [l, u] of :math:`f_1`, and for every
    wrong class j an attack of its own searches it (multi-estimator PGD):

    .. math::
        \hat l_j = (f_2)_y(x^*_j) - (f_2)_j(x^*_j), \qquad
        x^*_j \approx \arg\min_{x \in [l, u]} (f_2)_y(x) - (f_2)_j(x)

    The gradient of :math:`\hat l_j` with respect to :math:`x^*_j` goes on to l and u by the
    rectified linear connector (:func:`~taut.training.bound.connector.connect`). With the means
    over the batch :math:`L_T = \overline{\mathrm{CE}(-\hat l, y)}` and
    :math:`L_I = \overline{\mathrm{CE}(-l_\text{IBP}, y)}` the loss and its gradient are

    .. math:: L = L_T L_I, \qquad \nabla L := w L_I \nabla L_T + L_T \nabla L_I

    Attacks may miss the minimum, so nothing is proved (``Bounded.sound``). Where all activations
    lie before the cut the attacks are exact, and the margins IBP's.

    Parameters
    ----------
    split
        How many activations, counted from the input in the order of the graph, belong to the
        interval part (max pooling counts, cells of a grid do not); negative, how many belong to
        the other: -1 leaves one. The cut is the first node behind them that separates the
        network. Published code counts modules instead: its split "17 4" of the CNN7 with batch
        norm (the normalisation, five times convolution, norm and ReLU, a flatten; linear, norm,
        ReLU, linear) has five ReLUs in its first part and is ``split = 5``; "4 17" is 1, "10 11"
        is 3, "13 8" is 4.
    search
        The attack in the latent box, its steps in half widths of that box. It climbs the margin
        of one class; its scale, loss and spread are of no use here.
    scale
        w, the weight of the gradient of the estimated loss over that of IBP's; alpha / (1 -
        alpha) in the paper.
    threshold
        c of the connector, in [0, 1].
    multiply
        Multiply by IBP's loss; off, the loss is :math:`L_T` alone, with its plain gradient.
    ramp_by_ibp
        Train with IBP's loss alone until eps has reached its maximum, as published.
    relu_shrinkage
        Of the intervals, see :class:`~taut.training.bound.ibp.IBP`.

    Raises
    ------
    ConfigError
        For a field out of range, or a network that no node separates as ``split`` asks.

    References
    ----------
    Mao et al., *Connecting certified and adversarial training* (2023), Sec. 3, and its published
    code.

    """

    split: int = -1
    search: TrainingAttack = field(
        default_factory=lambda: TrainingAttack(steps=20, step=0.4, milestones=(14,))
    )
    scale: float = 5.0
    threshold: float = 0.5
    multiply: bool = True
    ramp_by_ibp: bool = True
    relu_shrinkage: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < float("inf"):
            raise ConfigError(f"method.scale must be a positive number; got {self.scale}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"method.threshold must lie in [0, 1]; got {self.threshold}")
        check_factor(self.relu_shrinkage)
        own = {name: getattr(self.search, name) for name in SEARCH}
        if self.search != TrainingAttack(**own):
            raise ConfigError(
                f"method.search takes {', '.join(SEARCH)} only: it climbs a margin in the whole "
                "latent box"
            )

    @property
    def certifiers(self) -> tuple[str, ...]:
        """IBP, and CROWN-IBP, as the last layers are trained by attacks."""
        return ("ibp", "crown-ibp")

    def bounded(self, network: Network, box: Box, y: Tensor, progress: Progress) -> Bounded:
        """Bound by intervals up to the cut and estimate from there on by attacks."""
        cut = cut_node(network, self.split)
        narrow = shrunk(network, self.relu_shrinkage)
        known = interval.propagate(narrow, box)
        sound = self.relu_shrinkage == 1.0
        plain = interval.margins(narrow, known, y)
        by_ibp = robust_cross_entropy(plain, y)
        if self.ramp_by_ibp and progress.fraction < FULL:
            return Bounded(by_ibp, plain, known, sound)
        margins = self._estimated(network, known, cut, y, progress)
        estimated = robust_cross_entropy(margins, y)
        if not self.multiply:
            return Bounded(estimated, margins, known, sound=False)
        losses = self._product(estimated, by_ibp, progress)
        return Bounded(losses, margins, known, sound=False)

    def _product(self, estimated: Tensor, by_ibp: Tensor, progress: Progress) -> Tensor:
        """Return losses ``(B,)`` whose mean has the value and the gradient of the product.

        The other factor's mean over the whole batch is taken as a constant in each of the two
        terms, so that their gradients add up over processes; the second has only a gradient.
        """
        mean = progress.average(estimated.detach().mean())
        mean_ibp = progress.average(by_ibp.detach().mean())
        weighted = estimated.detach() + self.scale * (estimated - estimated.detach())
        return mean_ibp * weighted + mean * (by_ibp - by_ibp.detach())

    def _estimated(
        self, network: Network, known: Intermediate, cut: int, y: Tensor, progress: Progress
    ) -> Tensor:
        """Return the margins ``(B, K)`` at the points found, with gradients through both parts."""
        rest = tail(network, cut)
        latent = known.at(cut)
        points = self._points(rest.detached(), latent, y, progress)
        linked = connect(points, latent.lower, latent.upper, self.threshold)
        logits = rest(linked.flatten(0, 1))
        own = y.repeat_interleave(points.shape[1])[:, None]
        other = _wrong_classes(y, network.classes).flatten()[:, None]
        margins = logits.gather(1, own) - logits.gather(1, other)
        return pad_true_class(margins.view(points.shape[:2]), y)

    def _points(self, rest: Network, latent: Bounds, y: Tensor, progress: Progress) -> Tensor:
        """Return the worst points of each wrong class, ``(B, K - 1, *shape)``."""
        others = _wrong_classes(y, rest.classes)
        count = others.shape[1]

        def each(tensor: Tensor) -> Tensor:  # in the layout of the gradients
            return channels_last(tensor.detach().repeat_interleave(count, 0))

        # in midpoint form the lower end may lie above the upper one by rounding
        low, high = each(latent.lower), each(latent.upper)
        box = Box(torch.minimum(low, high), torch.maximum(low, high))
        seeds, generator = _sources(y, others, progress)
        found = replace(self.search.pgd(), loss="margin")(
            _pairs(rest, each(y), others.flatten()),
            box.center,
            torch.zeros_like(others).flatten(),
            box,
            seeds=seeds,
            generator=generator,
        )
        return found.point.detach().view(len(y), count, *latent.lower.shape[1:])


def _wrong_classes(y: Tensor, classes: int) -> Tensor:
    """Return the K - 1 classes other than the label, ascending, ``(B, K - 1)``."""
    ids = torch.arange(classes - 1, device=y.device)
    return ids + (ids >= y[:, None]).long()


def _pairs(rest: Network, own: Tensor, other: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map from points to the logits of two classes, ``(N, 2)``, in their precision."""
    columns = torch.stack([own, other], 1)

    def evaluate(points: Tensor) -> Tensor:
        return rest(points).gather(1, columns).to(points.dtype)

    return evaluate


def _sources(
    y: Tensor, others: Tensor, progress: Progress
) -> tuple[Tensor | None, torch.Generator | None]:
    """Return what starts are drawn from: a seed for each image and class, or the generator."""
    if y.device.type != "cpu" or progress.seeds is None:
        return None, progress.generator
    pairs = zip(progress.seeds.tolist(), others.tolist(), strict=True)
    seeds = [mix(seed, 1 + other) for seed, row in pairs for other in row]
    return torch.tensor(seeds, dtype=torch.int64), None
