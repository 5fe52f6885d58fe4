"""The one attack loop: signed gradient ascent inside a box, every iterate checked."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from taut.attacks.losses import Loss, margin, objective, ranked_targets, score
from taut.attacks.mode import evaluating
from taut.attacks.starts import mix, uniform
from taut.errors import ConfigError, DataError, ModelError, RegionError
from taut.region import Box


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack found, one entry per image.

    Attributes
    ----------
    point
        Shape (B, *shape), inside the box: the first misclassified iterate where there is
        one (with ``stop_early``), else the iterate with the highest loss.
    success
        Boolean (B,): whether the model misclassified ``point`` when it was found. This is
        no verdict: a verdict needs a replay.
    margin
        Shape (B,): :math:`z_y - \\max_{j \\ne y} z_j` at ``point``, negative exactly where
        ``success``; NaN where every iterate had NaN logits.
    """

    point: Tensor
    success: Tensor
    margin: Tensor


class Run(NamedTuple):
    """The images still in one run, in step: tensors with one row per image.

    ``rows`` are their places in the batch, ``half`` half widths of the boxes, and ``target`` the
    class each run aims at, None without. ``memory`` is what an attack keeps from one move to the
    next, one row per image as well; it begins empty.
    """

    rows: Tensor
    y: Tensor
    lower: Tensor
    upper: Tensor
    half: Tensor
    point: Tensor
    target: Tensor | None
    memory: Mapping[str, Tensor] = MappingProxyType({})

    def keep(self, going: Tensor) -> Run:
        """Return the run of some of its images."""
        return Run(
            self.rows[going],
            self.y[going],
            self.lower[going],
            self.upper[going],
            self.half[going],
            self.point[going],
            None if self.target is None else self.target[going],
            {name: value[going] for name, value in self.memory.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """What every gradient attack has in common; subclasses choose the steps.

    A step is measured in **half widths of the clipped box, per pixel**: step s moves pixel i
    by :math:`s\\,(u_i - l_i)/2` along the sign of the gradient, then the point is projected
    on the box. Where the box is not clipped the half width is eps; so step 0.1 means eps / 10.

    Attributes
    ----------
    restarts
        Runs per image (per image and target class with the margin loss), each from its own
        random start.
    loss
        ``"ce"``, the cross-entropy; ``"margin"``, the targeted margin :math:`z_t - z_y` with one
        run per target class t; or ``"kl"``, the divergence of the class probabilities from those
        of the image itself, which training climbs and whose gradient vanishes at the image.
    targets
        With the margin loss, how many wrong classes to target, the most likely on the clean
        image first (1 is the runner-up); None is every wrong class.
    random_start
        Begin at a uniform point of the box; else at the image, and restarts beyond the first
        repeat it.
    stop_early
        Keep the first misclassified iterate of an image and drop the image out of the batch.
        False follows every image to the end and returns its iterate with the highest loss,
        which is what adversarial training wants.
    eval_mode
        Attack a module in evaluation mode. False leaves its flags alone; batch norms in
        training mode then normalise by, and track, the attacked batches.
    """

    restarts: int = 1
    loss: Loss = "ce"
    targets: int | None = None
    random_start: bool = True
    stop_early: bool = True
    eval_mode: bool = True

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ConfigError(f"restarts must be at least 1, got {self.restarts}")
        if self.loss not in get_args(Loss):
            raise ConfigError(f"loss must be one of {', '.join(get_args(Loss))}; got {self.loss!r}")
        if self.targets is not None and self.targets < 1:
            raise ConfigError(f"targets must be at least 1 or None for all, got {self.targets}")

    @abstractmethod
    def sizes(self) -> tuple[float, ...]:
        """Return the length of every step, in half widths of the box."""

    def begin(self, noise: Tensor) -> Tensor:
        """Return where in its box a random run begins, from uniform numbers; each in [0, 1]."""
        return noise

    def move(
        self, run: Run, climbed: Tensor, gradient: Tensor, size: float, noise: Callable[[], Tensor]
    ) -> Run:
        """Return the run with its next points, inside the boxes: here a signed step.

        Parameters
        ----------
        run
            The images, their points and what earlier moves of this run have kept.
        climbed
            What is climbed at these points, ``(b,)``; higher is worse.
        gradient
            Its gradient with respect to the pixels, shape of the points.
        size
            Length of the step, one of :meth:`sizes`.
        noise
            Draws uniform numbers in [0, 1) of the shape of the points, other ones at each step.

        """
        moved = gradient.sign().nan_to_num_(0.0).mul_(run.half).mul_(size).add_(run.point)
        return run._replace(point=moved.clamp_(run.lower, run.upper))

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        box: Box,
        seeds: Tensor | None = None,
        generator: torch.Generator | None = None,
        start: Box | None = None,
    ) -> Attacked:
        """Attack a batch.

        Only gradients with respect to the input are computed: parameters keep their ``grad``
        and ``requires_grad``. Given ``seeds``, the starts of an image depend on its seed and
        the restart alone, so its result does not depend on the batch it is in (up to the last
        bits by which linear algebra differs between batch sizes).

        Parameters
        ----------
        model
            A module, or any function, ``(B, *shape) -> (B, K)`` logits.
        x
            Images (B, *shape), raw pixels.
        y
            Labels (B,), int64 in 0 .. K-1.
        box
            Where to search, of the shape of ``x``.
        seeds
            One per image, int64 (B,); see :func:`~taut.attacks.image_seeds`.
            Without them and without a generator, 0 .. B-1.
        generator
            Draws the starts from this stream instead; for training.
        start
            Where random starts are drawn, a part of ``box``; None is all of it.

        Raises
        ------
        RegionError
            The box does not fit ``x``.
        DataError
            Labels do not fit the images or the logits.
        ModelError
            The model's output is no (B, K), or has no gradient.
        ConfigError
            Both seeds and a generator are given.
        """
        _check(x, y, box, seeds, generator, start)
        if seeds is None:
            seeds = torch.arange(len(x))
        search = _Search(self, model, x.detach(), y.to(x.device), box, seeds, generator, start)
        with self._mode(model), torch.enable_grad():
            return search.run()

    def _mode(self, model: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        if self.eval_mode and isinstance(model, nn.Module):
            return evaluating(model)
        return nullcontext()


class _Search:
    """The state of one call: for every image, the best point so far."""

    def __init__(
        self,
        attack: Attack,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        box: Box,
        seeds: Tensor,
        generator: torch.Generator | None,
        start: Box | None,
    ) -> None:
        self.attack, self.model, self.seeds, self.generator = attack, model, seeds, generator
        self.y, self.lower, self.upper, self.half = y, box.lower, box.upper, box.radius
        self.highest = int(y.max()) if len(y) else 0
        self.x = box.project(x)
        self.point = self.x.clone()
        self.score = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.margin = torch.full_like(self.score, torch.nan)
        self.start = box if start is None else start
        self.reference: Tensor | None = None

    def run(self) -> Attacked:
        everything = torch.arange(len(self.y), device=self.y.device)
        if self.attack.loss == "kl":
            with torch.no_grad():
                self.reference = self._logits(self.x)
        for restart, target in self._runs():
            run = Run(everything, self.y, self.lower, self.upper, self.half, self.x, target)
            if self.attack.stop_early:
                run = run.keep(~(self.margin < 0))
            if len(run.rows) == 0:
                break
            self._climb(run._replace(point=self._start(restart, run)), restart)
        return Attacked(self.point, self.margin < 0, self.margin)

    def _runs(self) -> Iterator[tuple[int, Tensor | None]]:
        """Yield restart and target classes (B,): all targets before the next restart."""
        targets: list[Tensor | None] = [None]
        if self.attack.loss == "margin":
            with torch.no_grad():
                ranked = ranked_targets(self._logits(self.x), self.y, self.attack.targets)
            targets = list(ranked.unbind(1))
        for restart in range(self.attack.restarts):
            for target in targets:
                yield restart, target

    def _start(self, restart: int, run: Run) -> Tensor:
        if not self.attack.random_start:
            return run.point
        lower, upper = self.start.lower[run.rows], self.start.upper[run.rows]
        noise = self.attack.begin(self._noise(restart, run))
        return (lower + noise * (upper - lower)).clamp(lower, upper)

    def _noise(self, restart: int, run: Run, step: int | None = None) -> Tensor:
        """Return uniform numbers for a run's start or one of its steps, shape of its points."""
        if self.generator is None:
            seeds = self.seeds[run.rows.cpu()]
            if step is not None:  # of a stream of its own
                own = [mix(seed, -1 - restart) for seed in seeds.tolist()]
                seeds = torch.tensor(own, dtype=torch.int64)
            return uniform(seeds, restart if step is None else step, run.point)
        drawn = torch.rand(  # for the whole batch, so that the stream never depends on success
            self.x.shape,
            generator=self.generator,
            dtype=self.x.dtype,
            device=self.generator.device,
        )
        return drawn.to(self.x.device)[run.rows]

    def _climb(self, run: Run, restart: int) -> None:
        """Follow one run to its end; the start and every iterate are offered."""
        for step, size in enumerate((*self.attack.sizes(), None)):
            point = run.point.detach().requires_grad_(size is not None)
            with torch.set_grad_enabled(size is not None):
                logits = self._logits(point)
            going = self._offer(run, logits.detach())
            if size is None or (going is not None and not bool(going.any())):
                return
            climbed = objective(logits, run.y, run.target, self._clean(run))
            gradient = self._gradient(climbed, point)
            noise = functools.partial(self._noise, restart, run, step)
            run = self.attack.move(run, climbed.detach(), gradient, size, noise)
            if going is not None and not bool(going.all()):
                run = run.keep(going)

    def _offer(self, run: Run, logits: Tensor) -> Tensor | None:
        """Record the run's points where they beat the best; tell which images go on (None: all)."""
        margins = margin(logits, run.y)
        scores = score(logits, run.y, self.attack.loss, self._clean(run))
        better = scores > self.score[run.rows]
        going = None
        if self.attack.stop_early:
            going = ~(margins < 0)
            better |= ~going
        rows = run.rows[better]
        self.point[rows] = run.point[better]
        self.margin[rows] = margins[better]
        self.score[rows] = scores[better]
        return going

    def _clean(self, run: Run) -> Tensor | None:
        return None if self.reference is None else self.reference[run.rows]

    def _gradient(self, loss: Tensor, point: Tensor) -> Tensor:
        if not loss.requires_grad:
            raise ModelError(
                "the model's logits have no gradient with respect to its input, so it cannot be "
                "attacked this way; remove detach(), no_grad() or .data from its forward()"
            )
        (gradient,) = torch.autograd.grad(
            loss.sum(), point, allow_unused=True, materialize_grads=True
        )
        return gradient

    def _logits(self, point: Tensor) -> Tensor:
        logits: Tensor = self.model(point)
        if logits.dim() != 2 or logits.shape[0] != len(point) or logits.shape[1] < 2:
            raise ModelError(
                f"the model maps a batch {tuple(point.shape)} to {tuple(logits.shape)}; an attack "
                "needs logits of shape (batch, classes) with at least two classes"
            )
        if self.highest >= logits.shape[1]:
            raise DataError(
                f"label {self.highest} is out of range: the model has {logits.shape[1]} classes, "
                f"0 to {logits.shape[1] - 1}"
            )
        return logits


def _check(
    x: Tensor,
    y: Tensor,
    box: Box,
    seeds: Tensor | None,
    generator: torch.Generator | None,
    start: Box | None,
) -> None:
    if x.shape != box.lower.shape:
        raise RegionError(
            f"the box has shape {tuple(box.lower.shape)} and the images {tuple(x.shape)}; "
            "they must be the same"
        )
    if start is not None and start.shape != box.shape:
        raise RegionError(
            f"the starts' box has shape {tuple(start.shape)} and the box searched "
            f"{tuple(box.shape)}; they must be the same"
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise DataError(
            f"labels must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}"
        )
    if len(y) and int(y.min()) < 0:
        raise DataError(f"label {int(y.min())} is out of range: labels start at 0")
    if seeds is not None and generator is not None:
        raise ConfigError("give an attack seeds or a generator, not both")
    if seeds is not None and (seeds.shape != y.shape or seeds.dtype != torch.int64):
        raise ConfigError(
            f"seeds must be int64 of shape ({len(x)},), got {seeds.dtype} of shape "
            f"{tuple(seeds.shape)}"
        )
