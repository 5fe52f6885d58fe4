"""How a run is trained, apart from its data, its network and its method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from taut.errors import ConfigError
from taut.training.activation import ActivationSchedule
from taut.training.rates import RateSchedule
from taut.training.regularise import Regularisers
from taut.training.scaling import EPOCHS
from taut.training.schedule import EpsRamp

Optimiser = Literal["adam", "adamw", "radam", "sgd"]
Precision = Literal["32-true", "tf32", "bf16-mixed", "64-true"]
Initialisation = Literal["default", "shi", "xavier", "kaiming", "gaussian"]
BatchNorm = Literal["running", "population"]
Device = Literal["auto", "cpu", "cuda"]


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
        ``adam``, ``adamw`` (decoupled weight decay), ``radam`` (rectified Adam) or ``sgd`` (with
        ``momentum``).
    lr
        Learning rate before the schedule's factor.
    weight_decay
        Weight decay, 0 for none; never on the range r of ParamRamp or learned
        thresholds of cells.
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
        ``32-true``, ``64-true``, ``tf32`` (on a GPU, products of training passes with 10 bits of
        mantissa), or ``bf16-mixed`` (training passes only). Validation is in the parameters' full
        precision always.
    threads
        CPU threads of each process; 0 leaves PyTorch's setting.
    init
        Initial weights: ``default``, those the model comes with; ``shi``, under which intervals
        keep their width from layer to layer; ``xavier`` (uniform), ``kaiming`` (normal) or
        ``gaussian`` (deviation 0.01) of convolutions and linear layers.
    average_from
        Epochs trained before weights are averaged; validation and the result then are the mean of
        the weights at the ends of the epochs since. 0 for no average.
    batch_norm
        ``running``: running statistics of batch normalisation, as PyTorch tracks them;
        ``population``: after each epoch, those over the un-augmented training images.
    validate_every
        Epochs from one evaluation to the next; the last epoch is always evaluated.
    validation_attack_images
        The first so many validation images are attacked in every evaluation, 0 for none.

    Raises
    ------
    ConfigError
        When a field is out of range.

    """

    epochs: int = field(metadata=EPOCHS)
    eps: float
    batch_size: int = 256
    optimiser: Optimiser = "adam"
    lr: float = 5e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    grad_clip: float = 0.0
    seed: int = 0
    device: Device = "auto"
    devices: int = 1
    precision: Precision = "32-true"
    threads: int = 0
    init: Initialisation = "default"
    average_from: int = field(default=0, metadata=EPOCHS)
    batch_norm: BatchNorm = "running"
    validate_every: int = field(default=1, metadata=EPOCHS)
    validation_attack_images: int = 1000

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
        at_least("train.average_from", self.average_from, 0)
        at_least("train.validate_every", self.validate_every, 1)
        at_least("train.validation_attack_images", self.validation_attack_images, 0)
        if self.average_from >= self.epochs:
            raise ConfigError(
                f"train.average_from = {self.average_from} leaves none of {self.epochs} epochs to "
                "average; lower it, or set 0 for no average"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"train.lr must be a finite number above 0; got {self.lr:g}")
        chosen: dict[str, Any] = {
            "optimiser": Optimiser,
            "device": Device,
            "precision": Precision,
            "init": Initialisation,
            "batch_norm": BatchNorm,
        }
        for name, kind in chosen.items():
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"train.{name} must be one of {', '.join(known)}; got {value!r}")


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
    activation
        Schedules of the activations' shape.
    validation_eps
        Radius at which validation certifies (pixels); ``None`` means ``eps``.

    """

    schedule: EpsRamp = field(default_factory=EpsRamp)
    rate: RateSchedule = field(default_factory=RateSchedule)
    regularise: Regularisers = field(default_factory=Regularisers)
    activation: ActivationSchedule = field(default_factory=ActivationSchedule)
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
