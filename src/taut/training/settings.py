"""How a run is trained, apart from its data, its network and its method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from taut.errors import ConfigError
from taut.training.rates import RateSchedule
from taut.training.regularise import Regularisers
from taut.training.schedule import EpsRamp

Optimiser = Literal["adam", "adamw", "sgd"]
Precision = Literal["32-true", "bf16-mixed", "64-true"]


@dataclass(frozen=True)
class Train:
    """The ``[train]`` section of a recipe.

    Parameters
    ----------
    epochs
        Passes over the training images.
    eps
        Radius the ramp ends at, in pixels of [0, 1].
    batch_size
        Images per optimiser step, over all processes together; a shorter last batch is kept.
    optimiser
        ``adam``, ``adamw`` (decoupled weight decay) or ``sgd`` (with ``momentum``).
    lr
        Learning rate before the schedule's factor.
    weight_decay
        Weight decay, 0 for none.
    momentum
        Momentum of ``sgd``.
    grad_clip
        Largest l_2 norm of the gradient, 0 for no clipping.
    seed
        Seed of the order of the images, of augmentation, attacks and dropout.
    device
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
    devices
        Number of data-parallel processes, one per GPU or CPU share.
    precision
        ``32-true``, ``64-true``, or ``bf16-mixed`` (training passes only; validation stays in
        the parameters' precision).
    threads
        CPU threads of each process; 0 leaves PyTorch's setting.

    Raises
    ------
    ConfigError
        When a field is out of range.

    """

    epochs: int
    eps: float
    batch_size: int = 256
    optimiser: Optimiser = "adam"
    lr: float = 5e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    grad_clip: float = 0.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Precision = "32-true"
    threads: int = 0

    def __post_init__(self) -> None:
        radius("train.eps", self.eps)
        at_least("train.epochs", self.epochs, 1)
        at_least("train.batch_size", self.batch_size, 1)
        at_least("train.devices", self.devices, 1)
        at_least("train.threads", self.threads, 0)
        at_least("train.seed", self.seed, 0)
        at_least("train.weight_decay", self.weight_decay, 0)
        at_least("train.momentum", self.momentum, 0)
        at_least("train.grad_clip", self.grad_clip, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"train.lr must be a finite number above 0; got {self.lr:g}")
        chosen = {
            "train.optimiser": (self.optimiser, ("adam", "adamw", "sgd")),
            "train.device": (self.device, ("auto", "cpu", "cuda")),
            "train.precision": (self.precision, ("32-true", "bf16-mixed", "64-true")),
        }
        for name, (value, known) in chosen.items():
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}")


@dataclass(frozen=True)
class Settings(Train):
    """Everything :func:`taut.training.fit` needs besides model, data and method.

    The fields of :class:`Train`, and:

    Parameters
    ----------
    schedule
        Ramp of eps.
    rate
        Schedule of the learning rate.
    regularise
        Terms added to the loss of the method.
    validation_eps
        Radius at which validation certifies (pixels); ``None`` means ``eps``.

    """

    schedule: EpsRamp = field(default_factory=EpsRamp)
    rate: RateSchedule = field(default_factory=RateSchedule)
    regularise: Regularisers = field(default_factory=Regularisers)
    validation_eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_eps is not None:
            radius("certify.eps", self.validation_eps)

    @property
    def target_eps(self) -> float:
        """Radius at which validation certifies."""
        return self.eps if self.validation_eps is None else self.validation_eps


def radius(name: str, eps: float) -> float:
    """Return a radius in pixels, or raise :class:`ConfigError` naming its key."""
    if not math.isfinite(eps) or eps < 0:
        raise ConfigError(
            f"{name} must be a finite number >= 0 in pixel units of [0, 1]; got {eps}"
        )
    return eps


def at_least(name: str, value: float, least: float) -> None:
    """Raise :class:`ConfigError` unless ``value`` is finite and not below ``least``."""
    if not least <= value < math.inf:  # also false for NaN
        raise ConfigError(f"{name} must be at least {least:g}; got {value:g}")
