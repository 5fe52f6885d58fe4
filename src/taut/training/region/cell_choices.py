"""Small sets of cell choices around attacked ones: SABR for networks that read cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.attacks.starts import mix, uniform
from taut.errors import ConfigError
from taut.graph import Network
from taut.operators import Bounds
from taut.operators.cells import Steps
from taut.region import Box
from taut.training.attack import TrainingAttack
from taut.training.progress import Progress
from taut.training.region.base import Batch, Region, WeightedBox, of_pixels, widest
from taut.training.region.full_ball import FullBall
from taut.training.region.small_box import around

Kind = Literal["relaxed", "subset"]
"""How a set of choices is made smaller."""

Free = Literal["gradient", "random"]
"""Which straddling pixels stay free."""


@dataclass(frozen=True)
class CellChoices:
    r"""A part of the cells that the pixels of a set can lie in, around an attacked choice.

    Behind ``Cells`` a pixel of the bounded set [l, u] of ``inner`` has a value between
    :math:`v_i = s(l_i)` and :math:`w_i = s(u_i)` of the staircase s; where the two differ it
    straddles. A PGD attack, whose gradient passes s straight through, gives the choice
    :math:`s(x^*)`.

    - ``relaxed``: a box of values behind the staircase,

      .. math::
          \tau_i = \lambda\, \frac{w_i - v_i}{2}, \qquad
          c_i = \mathrm{clip}(s(x^*_i),\ v_i + \tau_i,\ w_i - \tau_i), \qquad
          [c - \tau,\ c + \tau] \subseteq [v, w]

    - ``subset``: a box of pixels. The share :math:`\lambda` of an image's straddling pixels, to
      the nearest whole number, keeps [l, u]; all other pixels are fixed at :math:`x^*`.

    Only a part of the choices is bounded, so the loss is no upper bound of that over the set.
    With a ratio towards 0 both become training at the attacked choice; with 1 they are
    ``inner``, bit for bit and without an attack.

    Where ``inner`` gives several sets, the widest is attacked, once, and the choice is moved
    into each. The network attacked is that of evaluation mode.

    Parameters
    ----------
    ratio
        :math:`\lambda` in (0, 1].
    attack
        Its steps are in half widths of the set that is attacked. Its scale is of no use here.
    kind
        ``relaxed`` or ``subset``.
    free
        Which pixels a subset leaves free: those with the largest ``gradient`` of the
        cross-entropy at the attacked choice, in absolute value, or ``random`` ones.
    inner
        The region whose sets of pixels are made smaller.

    Raises
    ------
    ConfigError
        For a ratio outside (0, 1], an unknown kind, an attack with a scale, or a model that does
        not read its pixels through one layer of cells alone.

    References
    ----------
    Müller et al., *Certified training: small boxes are all you need* (2023), Sec. 3, for small
    boxes; Zhang et al., *Boosting verified training for robust image classifications via
    abstraction* (2023), for
    cells. The combination has not been published.

    """

    ratio: float = 0.4
    attack: TrainingAttack = field(default_factory=lambda: TrainingAttack(steps=8, step=0.5))
    kind: Kind = "relaxed"
    free: Free = "gradient"
    inner: Region = field(default_factory=FullBall)

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"method.ratio must lie in (0, 1]; got {self.ratio}")
        for name, known in (("kind", Kind), ("free", Free)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ConfigError(
                    f"method.{name} must be one of {', '.join(get_args(known))}; got {value!r}"
                )
        if self.attack.scale != 1.0:
            raise ConfigError(
                "method.attack.scale must be 1 with cell choices, which lie in the set that is "
                f"attacked; got {self.attack.scale}"
            )

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> Sequence[WeightedBox]:
        """Return the small set in each set of ``inner``, with its weight."""
        sets = of_pixels(self.inner.boxes(batch, eps, progress), "cell-choices")
        node, steps = staircase(batch.network)
        if self.ratio == 1.0:
            return sets
        point = self.attack.points(batch, widest(sets), progress)
        if self.kind == "relaxed":
            return [
                WeightedBox(self._relaxed(steps, point, each.box), each.weight, node)
                for each in sets
            ]
        score = self._scores(batch, point, progress)
        return [
            WeightedBox(self._subset(steps, point, each.box, score), each.weight) for each in sets
        ]

    def _relaxed(self, steps: Steps, point: Tensor, box: Box) -> Box:
        """Return the box of values, with gradients to thresholds that are learned."""
        values = Box(steps.forward(box.lower), steps.forward(box.upper))
        return around(steps.forward(box.project(point)), values, self.ratio * values.radius)

    def _subset(self, steps: Steps, point: Tensor, box: Box, score: Tensor) -> Box:
        """Return the box of the pixels with the highest scores; the others are points."""
        straddling = steps.bends(Bounds(box.lower, box.upper)).flatten(1)
        count = (self.ratio * straddling.sum(1, keepdim=True)).round()
        ranked = score.masked_fill(~straddling, -torch.inf)
        rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(1)
        free = ((rank < count) & straddling).view(box.shape)
        fixed = box.project(point)
        return Box(torch.where(free, box.lower, fixed), torch.where(free, box.upper, fixed))

    def _scores(self, batch: Batch, point: Tensor, progress: Progress) -> Tensor:
        """Return what pixels are ranked by, ``(B, pixels)``."""
        if self.free == "random":
            return _noise(point, progress).flatten(1)
        inputs = point.detach().requires_grad_()
        with torch.enable_grad():
            losses = F.cross_entropy(batch.evaluated(inputs), batch.y, reduction="sum")
        (gradient,) = torch.autograd.grad(losses, inputs)
        return gradient.abs().flatten(1)


def staircase(network: Network) -> tuple[int, Steps]:
    """Return the staircase that all pixels pass, and its node.

    Raises
    ------
    ConfigError
        When the network has no cells, or reads its pixels in another way, too.

    """
    found = [node for node in network.nodes if isinstance(node.operator, Steps)]
    if not found:
        raise ConfigError(
            "the region cell-choices needs a model that reads cells; set model.options.cells (the "
            'number of cells, for example 5), or choose the region "small-box"'
        )
    first = found[0]
    past = any(i < first.index for node in network.nodes[first.index + 1 :] for i in node.inputs)
    if first.inputs != (0,) or past:
        raise ConfigError(
            "the region cell-choices needs a model whose pixels all pass one layer of cells, and "
            'this one reads them in another way, too; choose the region "small-box"'
        )
    assert isinstance(first.operator, Steps)
    return first.index, first.operator


def _noise(point: Tensor, progress: Progress) -> Tensor:
    """Return uniform numbers, from the images' seeds on the CPU, else from the generator."""
    if point.device.type == "cpu" and progress.seeds is not None:
        seeds = [mix(seed, -1) for seed in progress.seeds.tolist()]  # not those of the attack
        return uniform(torch.tensor(seeds, dtype=torch.int64), 0, point)
    return torch.rand(
        point.shape, generator=progress.generator, dtype=point.dtype, device=point.device
    )
