"""One process's part of a training run: its batches, its steps, its epochs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from taut.data import Augment, ImageSet, batches
from taut.errors import RunError
from taut.graph import Graph
from taut.operators.ramp import ParamRamp
from taut.training import checkpoint
from taut.training.companions import companions
from taut.training.evaluate import validate
from taut.training.meter import DivergenceError, Meter
from taut.training.methods import Method
from taut.training.objective import Answer, Call
from taut.training.progress import NEGLIGIBLE_EPS, Progress
from taut.training.runtime import products
from taut.training.settings import Settings
from taut.training.streams import derive, share, stream

if TYPE_CHECKING:
    from lightning_fabric import Fabric

READ_EVERY = {"cpu": 1}
"""Steps between two readings of the losses by device type; 25 where a reading has to wait."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepInfo:
    """What a live display is told during an epoch.

    ``epoch`` and ``step`` count from 1 within their ``epochs`` and ``steps``; ``eps`` is in
    pixels of [0, 1]; ``loss`` holds the parts and ``total`` of the latest step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    eps: float
    lr: float
    loss: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Share:
    """This process's rows of one global batch, and what its mean loss weighs in the average."""

    call: Call
    images: int
    weight: float


@dataclass(eq=False)
class Run:
    """One process's part of a run; ``rows`` and ``memory`` are what changes beside the model.

    Parameters
    ----------
    fabric
        Device, precision and the other processes.
    model, graph
        The user's model and its trace.
    method, settings
        What to train, and how.
    objective, optimiser
        As Fabric returned them.
    images
        Training images on the device.
    steps
        Optimiser steps per epoch.
    augment
        Augmentation of whole global batches, or None.

    """

    fabric: Fabric
    model: nn.Module
    graph: Graph
    method: Method
    settings: Settings
    objective: Any
    optimiser: Any
    images: ImageSet
    steps: int
    augment: Augment | None
    memory: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.companions = companions(self)

    def train_epoch(self, epoch: int, on_step: Callable[[StepInfo], None] | None) -> dict[str, Any]:
        """Train one epoch (counted from 1) and return its row of metrics."""
        begun = time.perf_counter()
        self.model.train()
        for companion in self.companions:
            companion.begin_epoch(self, epoch)
        meter = Meter(self.reduce)
        every = READ_EVERY.get(self.fabric.device.type, 25)
        eps = lr = 0.0
        kind: Literal["ieee", "tf32"] = "tf32" if self.settings.precision == "tf32" else "ieee"
        for step, part in enumerate(self.shares(epoch), start=1):
            eps, lr = self.schedules(self.at(epoch, step))
            for companion in self.companions:
                companion.before_step(self, self.at(epoch, step))
            with products(self.fabric.device, kind):
                self.train_step(step, part, lr, meter)
            if step % every == 0 or step == self.steps:
                latest = self.read(meter, epoch)
                if on_step is not None:
                    epochs = self.settings.epochs
                    on_step(StepInfo(epoch, epochs, step, self.steps, eps, lr, latest))
        for companion in self.companions:
            companion.end_epoch(self, epoch)
        self.check_weights(epoch)
        seconds = time.perf_counter() - begun
        return {
            "epoch": epoch,
            "eps": eps,
            "lr": lr,
            "loss": meter.means("loss"),
            "train": meter.means("train"),
            "validation": {},
            "seconds": seconds,
            "images_per_second": len(self.images) / seconds,
        }

    def is_validated(self, epoch: int) -> bool:
        """Tell whether an epoch (from 1) ends with an evaluation: every few, and the last."""
        return epoch % self.settings.validate_every == 0 or epoch == self.settings.epochs

    def natural_only(self, epoch: int) -> bool:
        """Tell whether an epoch (from 1) is one of warm-up: eps at its last step is about 0."""
        return self.schedules(self.at(epoch, self.steps))[0] < NEGLIGIBLE_EPS

    def at(self, epoch: int, step: int) -> int:
        """Return the 0-based step of the run from an epoch and its step, both from 1."""
        return (epoch - 1) * self.steps + step - 1

    def schedules(self, step: int) -> tuple[float, float]:
        """Return eps and learning rate at a 0-based step of the run."""
        s = self.settings
        ramp_end = s.schedule.ends(self.steps)[1]
        factor = s.rate.factor_at(step, self.steps, s.epochs, ramp_end)
        return s.schedule.eps(step, s.eps, self.steps), s.lr * factor

    def shares(self, epoch: int) -> Iterator[_Share]:
        """Yield this process's part of each batch of an epoch.

        Every process draws the order and the augmentation of the whole batch, and so the same.
        """
        seed, size, device = self.settings.seed, self.settings.batch_size, self.fabric.device
        rank, world = self.fabric.global_rank, self.fabric.world_size
        torch.manual_seed(derive(seed, "default", epoch, rank))
        attack = stream(device, seed, "attack", epoch, rank)
        seeds = torch.randint(
            1 << 62, (len(self.images),), generator=stream(CPU, seed, "images", epoch)
        ).to(device)
        natural_only = self.natural_only(epoch)
        dtype = next(self.model.parameters()).dtype
        shuffle = stream(CPU, seed, "order", epoch)
        drawn = batches(self.images, size, shuffle=shuffle, augment=self.augment)
        for step, (x, y, index) in enumerate(drawn, start=1):
            rows, weight = share(len(index), rank, world)
            now = self.at(epoch, step)
            progress = Progress(
                step=now,
                epoch=epoch,
                eps=self.schedules(now)[0],
                eps_max=self.settings.eps,
                natural_only=natural_only,
                generator=attack,
                seeds=seeds[index[rows]],
                memory=self.memory,
                steps=self.steps,
                average=functools.partial(self.average, weight),
                images=len(index),
            )
            call = Call(x[rows].to(dtype), y[rows], progress)
            yield _Share(call, len(call.y) if weight else 0, weight)

    def train_step(self, step: int, part: _Share, lr: float, meter: Meter) -> None:
        """Make one optimiser step (``step`` counts from 1 within the epoch)."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        answer: Answer = self.objective(part.call)
        figures = {f"loss/{name}": value for name, value in answer.parts.items()}
        figures["loss/total"] = answer.total.detach()
        figures |= {f"train/{name}": value for name, value in answer.rates.items()}
        meter.add(step, part.images, figures)
        loss = answer.total if part.weight == 1.0 else answer.total * part.weight
        self.fabric.backward(loss)
        if self.settings.grad_clip > 0:
            self.fabric.clip_gradients(
                self.objective,
                self.optimiser,
                max_norm=self.settings.grad_clip,
                error_if_nonfinite=False,  # the next loss tells, with its step and term
            )
        now = part.call.progress.step
        for companion in self.companions:
            companion.before_update(self, now)
        self.optimiser.step()
        for companion in self.companions:
            companion.after_step(self, now)

    def read(self, meter: Meter, epoch: int) -> dict[str, float]:
        """Return the latest losses; stop where one is not finite."""
        latest, broken = meter.read()
        if broken is not None:
            step, name = broken
            raise self.diverged(epoch, f"the {name.removeprefix('loss/')} loss of step {step}")
        start = "loss/"
        return {n.removeprefix(start): v for n, v in latest.items() if n.startswith(start)}

    def check_weights(self, epoch: int) -> None:
        """Stop where a parameter or a buffer is not finite after the epoch."""
        state = self.model.state_dict()
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        for name, module in self.model.named_modules():
            if isinstance(module, ParamRamp):  # an infinite range is one that is switched off
                key = f"{name}.r" if name else "r"
                floating[key] = floating[key].where(floating[key] != torch.inf, 0.0)
        finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
        for name, good in zip(floating, finite, strict=True):
            if not good:
                raise self.diverged(epoch, f"the weight {name!r} after step {self.steps}")

    def diverged(self, epoch: int, what: str) -> DivergenceError:
        """Return the error that names epoch, step and term, and the last good checkpoint."""
        kept = len(self.rows)
        good = f"the last good checkpoint is that of epoch {kept}" if kept else "no epoch is done"
        return DivergenceError(
            f"training diverged in epoch {epoch} of {self.settings.epochs} ({self.steps} steps "
            f"each): {what} is NaN or infinite; {good}. Lower train.lr, set train.grad_clip or "
            "lengthen the ramp of eps, and start a new run"
        )

    def validate(self, held: ImageSet, epoch: int) -> dict[str, float]:
        """Evaluate on held-out images at the target eps."""
        with ExitStack() as stack:
            for companion in self.companions:
                stack.enter_context(companion.evaluation(self, epoch))
            return validate(
                self.graph,
                held,
                self.settings.target_eps,
                self.method.certifiers,
                attack_images=self.settings.validation_attack_images,
                part=(self.fabric.global_rank, self.fabric.world_size),
                reduce=self.reduce,
            )

    def average(self, weight: float, value: Tensor) -> Tensor:
        """Average over processes, this one weighted by its share of the batch."""
        if self.fabric.world_size == 1:
            return value
        return self.reduce(value * weight) / self.fabric.world_size

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        if self.fabric.world_size == 1:
            return values
        summed = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def state(self) -> dict[str, Any]:
        """Return the checkpoint's content."""
        return checkpoint.pack(
            self.model,
            self.optimiser,
            self.memory,
            checkpoint.describe(self.method, self.settings),
            self.rows,
            len(self.rows) * self.steps,
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's content."""
        description = checkpoint.describe(self.method, self.settings)
        done = state["epoch"] * self.steps
        if state["step"] != done:
            raise RunError(
                f"the checkpoint was written after {state['step']} steps, which are "
                f"{done} with the images given now; resume with the images of the run"
            )
        self.rows = checkpoint.unpack(
            state, self.model, self.optimiser, self.memory, description, self.fabric.device
        )
