"""The cascade: clean, attack, bounds, complete verifiers, each on what is undecided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taut.attacks import PGD, evaluating
from taut.attacks.loop import Attack
from taut.bounds import METHODS, BoundMethod
from taut.errors import ConfigError
from taut.region import PIXELS, check_eps
from taut.verify.boxes import coarser, representable
from taut.verify.certification import Certification
from taut.verify.complete import COMPLETE_STAGES, verifier
from taut.verify.inputs import check_images, check_indices, check_model, placement
from taut.verify.memory import in_halves
from taut.verify.stages import Images, Stages
from taut.verify.verdict import Evidence, Verdict, conclude

if TYPE_CHECKING:  # a run without complete stages needs neither
    from taut.graph import Network
    from taut.verify.branch import Branch
    from taut.verify.mip import MIP

DEFAULT_STAGES = ("clean", "ibp", "crown-ibp", "attack", "crown")

BATCH_SIZE, MOST = 100, 500
"""Images together where nothing is known of what they take, and where they take little."""

_BYTES = 2**28  # float32 values of all layers of a batch

_CHEAP = ("clean", "attack", "ibp", "crown-ibp")


@dataclass(frozen=True)
class Cascade:
    """How to certify.

    Attributes
    ----------
    stages
        In order: ``"clean"`` first, then ``"attack"``, names of bounding methods
        (:data:`taut.bounds.METHODS`) and the verifiers ``"branch"``, ``"mip"``, ``"lp"`` and
        ``"gm-protocol"`` (:data:`taut.verify.complete.COMPLETE_STAGES`), each at most once.
    batch_size
        Images certified together; None for as many as keep the values of all layers under
        256 MB, at most 500. It is halved, for as long as needed, where memory runs out.
    piece_size
        Images of a batch that a stage dearer than CROWN-IBP takes together: its verdicts
        come out piece by piece, so that an interruption costs no more than one.
    attack
        The search for counterexamples.
    timeout
        Seconds per image, or None. Checked between stages: an image that has spent more and
        is undecided goes no further. Complete verifiers get what is left of it.
    seed
        Of the attack's random starts; an image's depend on it and on its index alone.
    data_range
        Pixel range the region is clipped to; None leaves it whole.
    branch
        Settings of the stage ``"branch"``; None for the defaults.
    mip
        Settings of the stages ``"mip"``, ``"lp"`` and ``"gm-protocol"``; None for the defaults.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    stages: tuple[str, ...] = DEFAULT_STAGES
    batch_size: int | None = None
    piece_size: int = 10
    attack: Attack = PGD(steps=40, loss="margin", targets=3)  # noqa: RUF009 - frozen
    timeout: float | None = None
    seed: int = 0
    data_range: tuple[float, float] | None = PIXELS
    branch: Branch | None = None
    mip: MIP | None = None

    def __post_init__(self) -> None:
        if not self.stages or self.stages[0] != "clean" or len(set(self.stages)) < len(self.stages):
            raise ConfigError(
                "stages must begin with 'clean' and name each stage once; "
                f"got {', '.join(self.stages) or 'none'}"
            )
        for name, size in (("batch_size", self.batch_size), ("piece_size", self.piece_size)):
            if size is not None and size < 1:
                raise ConfigError(f"{name} must be at least 1 image; got {size}")
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"timeout must be positive seconds or None, got {self.timeout}")
        if self.data_range is not None and not self.data_range[0] < self.data_range[1]:
            raise ConfigError(f"data_range must be (low, high), got {self.data_range}")

    def complete(self) -> dict[str, Branch | MIP]:
        """Return the complete verifiers among the stages, by name.

        Raises
        ------
        ConfigError
            The solver of ``mip`` is not installed.
        """
        return {
            name: verifier(name, self.branch, self.mip)
            for name in self.stages
            if name in COMPLETE_STAGES
        }


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    cascade: Cascade = Cascade(),
    indices: Sequence[int] | None = None,
    on_verdict: Callable[[Verdict], None] | None = None,
    on_stage: Callable[[str, int], None] | None = None,
    methods: Mapping[str, BoundMethod] | None = None,
) -> Certification:
    r"""Certify that a classifier keeps its labels on every l_inf ball, or find where it does not.

    An image is verified when a lower bound of every margin :math:`z_y - z_j`, :math:`j \ne y`,
    over :math:`\{x' : \|x' - x\|_\infty \le \varepsilon\}` clipped to the pixel range is
    positive; the best bound of the stages so far counts, margin by margin. It is falsified when
    a point of that region, replayed in the module itself in float64 and in float32, has another
    class. The model runs in evaluation mode; its flags, weights and buffers are left as they were.

    In float32, a bound within 1e-4 of zero (relative to the logits and margins) or 1e-5
    (absolute) is computed again in float64 before a verdict rests on it. The same seed gives
    the same verdicts, whatever the batches; linear algebra itself may differ in the last bits
    between batch sizes.

    Parameters
    ----------
    model
        Any module of supported operators, (B, *shape) to logits (B, K).
    x
        Images (N, *shape), raw pixels.
    y
        Labels (N,), whole numbers in 0 .. K-1.
    eps
        Radius in pixel units of [0, 1].
    cascade
        Stages, batch size, attack, time, seed.
    indices
        Positions of the images in their split, for the verdicts and the random starts;
        0 .. N-1 where left out.
    on_verdict
        Called with each verdict as soon as it is made.
    on_stage
        Called before each stage of each batch with its name and the number of images it gets.
    methods
        Bounding methods by stage name, instead of :data:`taut.bounds.METHODS`.

    Returns
    -------
    Certification
        Verdicts in the order of the images.

    Raises
    ------
    DataError
        An image is not finite or leaves the pixel range, or labels do not fit.
    RegionError
        ``eps`` is negative, NaN or infinite.
    ModelError
        The images do not fit the model, or it cannot be traced.
    ConfigError
        An unknown stage.
    """
    began = time.perf_counter()
    eps = check_eps(eps)
    known = METHODS if methods is None else methods
    choice = ("clean", "attack", *known, *COMPLETE_STAGES)
    if unknown := [stage for stage in cascade.stages if stage not in choice]:
        raise ConfigError(f"unknown stage {unknown[0]!r}; choose from {', '.join(choice)}")
    complete = cascade.complete()
    check_images(x, cascade.data_range)
    positions = check_indices(indices, len(x))
    device, dtype = placement(model)
    check_model(model, x[:1].detach().to(device, dtype), y, len(x))
    verdicts: list[Verdict] = []
    with evaluating(model), torch.no_grad():
        bounds = {name: known[name] for name in cascade.stages if name in known}
        stages = Stages(
            model,
            eps,
            cascade.attack,
            cascade.seed,
            representable(cascade.data_range, coarser(x.dtype, dtype)),
            bounds,
            tuple(x.shape[1:]),
            complete,
            cascade.timeout,
        )
        size = cascade.batch_size or _batch_size(stages.net)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            images = Images(
                x[part].detach().to(device, dtype), y[part].to(device).long(), positions[part]
            )
            verdicts += _batch(stages, images, cascade, on_verdict, on_stage)
    return Certification(tuple(verdicts), eps, time.perf_counter() - began, cascade.stages)


def _batch_size(net: Network | None) -> int:
    """Return how many images go together by default; a model that is not traced tells no sizes."""
    if net is None:
        return BATCH_SIZE
    each = 4 * sum(math.prod(node.shape) for node in net.nodes)
    return min(MOST, max(1, _BYTES // each))


def _batch(
    stages: Stages,
    images: Images,
    cascade: Cascade,
    on_verdict: Callable[[Verdict], None] | None,
    on_stage: Callable[[str, int], None] | None,
) -> list[Verdict]:
    """Take one batch through the stages; return its verdicts in order."""
    made: dict[int, Verdict] = {}

    def settle(row: int, stage: str, evidence: Evidence) -> None:
        if row in images.doubts and evidence.replay is None:
            evidence = replace(images.doubts[row], bound=min(images.bound(row), 0.0))
        if evidence.reason in ("nan", "memory", "timeout", "hopeless"):
            # what earlier stages proved stands
            evidence = replace(evidence, bound=images.bound(row))
        made[row] = conclude(
            images.indices[row],
            images.labels[row],
            images.predicted[row],
            stage,
            images.seconds[row],
            replace(evidence, parts=images.parts[row]),
        )
        images.open.remove(row)
        if on_verdict is not None:
            on_verdict(made[row])

    last = "clean"
    for stage in cascade.stages:
        if cascade.timeout is not None:
            for row in [r for r in images.open if images.seconds[r] >= cascade.timeout]:
                settle(row, last, Evidence(reason="timeout"))
        if not images.open:
            break
        last = stage
        rows = list(images.open)
        if on_stage is not None:
            on_stage(stage, len(rows))
        size = len(rows) if stage in _CHEAP else cascade.piece_size
        for piece in (rows[start : start + size] for start in range(0, len(rows), size)):
            for row, evidence in zip(piece, _timed(stages, stage, images, piece), strict=True):
                if evidence is not None and evidence.is_doubtful and stage != "clean":
                    images.doubts[row] = evidence
                elif evidence is not None:
                    settle(row, stage, evidence)
    for row in list(images.open):
        settle(row, last, Evidence(bound=images.bound(row)))
    return [made[row] for row in range(len(images.x))]


def _timed(stages: Stages, stage: str, images: Images, rows: list[int]) -> list[Evidence | None]:
    """Run one stage on some images, in halves where memory runs out; share out its time."""
    began = time.perf_counter()
    lost: Evidence | None = Evidence(reason="memory")
    found = in_halves(partial(stages.run, stage, images), rows, lost)
    share = (time.perf_counter() - began) / len(rows)
    for row in rows:
        images.seconds[row] += share
    return found
