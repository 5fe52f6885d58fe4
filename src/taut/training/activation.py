"""The ``[activation]`` section of a recipe: how the shape of activations changes in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from taut.data.images import as_pixels
from taut.errors import ConfigError
from taut.operators.ramp import LEAST_RANGE, ParamRamp
from taut.training.companions import Companion
from taut.training.scaling import EPOCHS
from taut.training.schedule import EpsRamp
from taut.training.streams import stream

if TYPE_CHECKING:
    from taut.training.run import Run

CHUNK = 512
"""Images passed at a time where r is initialised."""


@dataclass(frozen=True)
class ActivationSchedule:
    r"""Schedules of the outer slope :math:`\eta` and the range r of activations.

    :math:`\eta` is the outer slope of every :class:`~taut.operators.ramp.ParamRamp` and the
    negative slope of every ``nn.LeakyReLU``. It changes between epochs. With e epochs trained,
    start s and length n, and S the smoothed ramp of eps from 0 to 1:

    - ``none``: the modules keep theirs;
    - ``linear``: :math:`\eta_0 + (\eta_1-\eta_0)\,\mathrm{clip}((e-s)/n, 0, 1)`;
    - ``smoothed``: :math:`\eta_0 + (\eta_1-\eta_0)\,S(e)`, curved at its start.

    The range r of ParamRamp is trained with the weights, at their rate and without weight decay,
    and is lifted to at least 1e-4 after every step.

    Parameters
    ----------
    eta_kind
        ``none``, ``linear`` or ``smoothed``.
    eta, eta_end
        Slope at the start and in the end, in [0, 1].
    eta_start, eta_length
        Epochs before the slope begins to change, and epochs of the change; length 0 keeps
        ``eta``.
    r_init
        ``none``: r starts as the modules have it. ``mean``: while eps is 0 the right part of
        every ParamRamp is off (r is infinite, a leaky ReLU); before the first epoch whose eps
        ends positive, r becomes each neuron's mean output over the un-augmented training images
        in evaluation mode, at least 1e-4, and the optimiser's state of r starts anew.
    noise
        Standard deviation of noise on r over the mean of r in its layer, 0 for none. It is drawn
        once a step, so that the clean pass and all bounds see the same r, and is taken away
        before the update.

    Raises
    ------
    ConfigError
        When a field is out of range.

    References
    ----------
    Lyu et al., *Towards evaluating and training verifiably robust neural networks* (2021),
    Sec. 5 and supplement; its published code for the clamp, the initial r and the smoothed
    slope. There noise stays in r (text) or is drawn anew at every use of r (code), so that
    lower and upper bounds see different activations; here it is neither.

    """

    eta_kind: Literal["none", "linear", "smoothed"] = "none"
    eta: float = 0.01
    eta_end: float = 0.0
    eta_start: int = field(default=0, metadata=EPOCHS)
    eta_length: int = field(default=0, metadata=EPOCHS)
    r_init: Literal["none", "mean"] = "none"
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (
            ("eta_kind", ("none", "linear", "smoothed")),
            ("r_init", ("none", "mean")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"activation.{name} must be one of {', '.join(known)}; "
                    f"got {getattr(self, name)!r}"
                )
        for name in ("eta", "eta_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"activation.{name} must lie in [0, 1]; got {getattr(self, name):g}"
                )
        for name in ("eta_start", "eta_length"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"activation.{name} must not be negative; got {getattr(self, name)}"
                )
        if not 0.0 <= self.noise < math.inf:
            raise ConfigError(f"activation.noise must be a finite number >= 0; got {self.noise:g}")

    def slope(self, epochs: int) -> float:
        r"""Return :math:`\eta` once ``epochs`` epochs are trained."""
        if self.eta_length == 0:
            return self.eta
        kind: Any = self.eta_kind
        ramp = EpsRamp(kind, self.eta_start, self.eta_length, "ctbench")  # counts from 0, exactly
        return self.eta + (self.eta_end - self.eta) * ramp.eps(epochs, 1.0, 1)


class ActivationCompanion(Companion):
    """Carries out an :class:`ActivationSchedule`.

    Parameters
    ----------
    schedule
        What to do.
    ramps, leaky
        The model's modules it is done to.

    """

    def __init__(
        self, schedule: ActivationSchedule, ramps: list[ParamRamp], leaky: list[nn.LeakyReLU]
    ) -> None:
        self.schedule, self.ramps, self.leaky = schedule, ramps, leaky
        self._kept: list[Tensor] = []

    def begin_epoch(self, run: Run, epoch: int) -> None:
        """Set the slope of the epoch; switch the right part of ramps off, or on."""
        self._set_slope(epoch)
        if self.schedule.r_init == "mean" and self.ramps:
            warm = run.natural_only(epoch)
            if warm or epoch == 1:
                self._switch_off()
            if not warm and (epoch == 1 or run.natural_only(epoch - 1)):
                self._initialise(run)

    @torch.no_grad()
    def before_step(self, run: Run, step: int) -> None:
        """Put this step's noise on r."""
        if self.schedule.noise == 0.0:
            return
        cpu = torch.device("cpu")
        generator = stream(cpu, run.settings.seed, "ramp", step)
        self._kept = [ramp.r.detach().clone() for ramp in self.ramps]
        for ramp in self.ramps:
            drawn = torch.randn(ramp.r.shape, generator=generator).to(ramp.r)
            noise = self.schedule.noise * ramp.r.mean() * drawn
            ramp.r.add_(noise.where(ramp.r.isfinite(), 0.0)).clamp_(min=LEAST_RANGE)

    @torch.no_grad()
    def before_update(self, run: Run, step: int) -> None:
        """Take the noise off again."""
        for ramp, r in zip(self.ramps, self._kept, strict=False):
            ramp.r.copy_(r)
        self._kept = []

    def after_step(self, run: Run, step: int) -> None:
        """Lift r to the least a ramp works with."""
        for ramp in self.ramps:
            ramp.project()

    def finish(self, run: Run) -> None:
        """Leave the slope of the last epoch, also where no epoch was left to run."""
        self._set_slope(run.settings.epochs)

    def _set_slope(self, epoch: int) -> None:
        if self.schedule.eta_kind == "none":
            return
        slope = self.schedule.slope(epoch - 1)
        for ramp in self.ramps:
            ramp.set_eta(slope)
        for module in self.leaky:
            module.negative_slope = slope

    @torch.no_grad()
    def _switch_off(self) -> None:
        for ramp in self.ramps:
            ramp.r.fill_(math.inf)

    @torch.no_grad()
    def _initialise(self, run: Run) -> None:
        """Set r to the mean output of each neuron, the right part still off."""
        sums = [torch.zeros_like(ramp.r, dtype=torch.float64) for ramp in self.ramps]
        counts = [torch.zeros((), dtype=torch.float64, device=s.device) for s in sums]

        def note(place: int) -> Any:
            def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                excess = output.dim() - sums[place].dim()
                total = output.double().sum(list(range(excess)))
                sums[place] += total.sum_to_size(sums[place].shape)
                counts[place] += output.numel() / sums[place].numel()

            return add

        hooks = [ramp.register_forward_hook(note(i)) for i, ramp in enumerate(self.ramps)]
        try:
            run.model.eval()
            rank, world = run.fabric.global_rank, run.fabric.world_size
            for start in range(0, len(run.images), CHUNK):
                chunk = run.images.images[start : start + CHUNK][rank::world]
                if len(chunk):
                    run.model(as_pixels(chunk).to(self.ramps[0].r.dtype))
        finally:
            for hook in hooks:
                hook.remove()
            run.model.train()
        state = run.optimiser.optimizer.state
        for ramp, total, count in zip(self.ramps, sums, counts, strict=True):
            ramp.r.copy_(run.reduce(total) / run.reduce(count))
            ramp.project()
            state.pop(ramp.r, None)


def activation_companion(
    schedule: ActivationSchedule, model: nn.Module
) -> ActivationCompanion | None:
    """Return the companion a model needs: every ParamRamp is kept positive, schedule or not.

    Raises
    ------
    ConfigError
        When the schedule asks for something the model's activations do not have.

    """
    ramps = [m for m in model.modules() if isinstance(m, ParamRamp)]
    leaky = [m for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    if (schedule.r_init != "none" or schedule.noise > 0) and not ramps:
        raise ConfigError(
            "activation.r_init and activation.noise change the range of ParamRamp, which the "
            'model does not have; set model.options.activation = "param-ramp"'
        )
    if schedule.eta_kind != "none" and not ramps and not leaky:
        raise ConfigError(
            "activation.eta is the outer slope of ParamRamp and of nn.LeakyReLU, and the model "
            'has neither; set model.options.activation = "param-ramp" or "leaky-relu"'
        )
    return ActivationCompanion(schedule, ramps, leaky) if ramps or leaky else None
