"""The one training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

from taut.data import Augment, ImageSet, steps
from taut.errors import ConfigError
from taut.graph import trace
from taut.property import check_labels
from taut.training.initialise import initialise
from taut.training.methods import Method
from taut.training.objective import Objective
from taut.training.parameters import no_weights
from taut.training.run import Run, StepInfo
from taut.training.runtime import environment
from taut.training.settings import Settings
from taut.training.sink import Sink

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class FitResult:
    """What training returns: the model given, trained in place, and one row per epoch."""

    model: nn.Module
    rows: list[dict[str, Any]]


def fit(
    model: nn.Module,
    train: ImageSet,
    validation: ImageSet | None,
    method: Method,
    settings: Settings,
    *,
    augment: Augment | None = None,
    sink: Sink | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
) -> FitResult:
    """Train ``model`` in place.

    Order of images, augmentation, attacks and dropout are functions of the seed and the epoch, so
    a run resumed from its last checkpoint ends in the weights of an uninterrupted one, to the bit
    on the CPU with one thread. With ``settings.devices > 1`` the program is started once per
    device; every process takes its share of each batch, and the first one reports and writes.

    Parameters
    ----------
    model
        Any module that :func:`taut.graph.trace` accepts. It is moved to the device of the run and
        left there in evaluation mode, with the averaged weights where ``settings`` ask for them.
        With ``settings.init`` a run that is not resumed draws its weights anew.
    train, validation
        Labelled images; the model is never evaluated on anything but ``validation``.
    method
        How a batch becomes a loss, see :data:`taut.training.METHODS`.
    settings
        Everything else.
    augment
        Augmentation of the training images.
    sink
        Where metrics and checkpoints go, after every epoch.
    resume
        Continue from the sink's checkpoint, if it has one.
    on_epoch, on_step
        Called with each epoch's row, and with the state within an epoch, by the first process.

    Raises
    ------
    ConfigError
        When settings do not fit the machine or the data.
    DataError
        When labels do not fit the model.
    ModelError
        When the model cannot be traced.
    RunError
        When the checkpoint is of another run.
    DivergenceError
        When a loss or a weight is NaN or infinite.

    """
    with environment(settings) as fabric:
        run = _prepare(fabric, model, train, method, settings, augment)
        held = None if validation is None else validation.to(fabric.device)
        if resume and sink is not None:
            _resume(run, sink)
        if not run.rows:
            initialise(settings.init, model, run.graph, settings.seed)
        for epoch in range(len(run.rows) + 1, settings.epochs + 1):
            row = run.train_epoch(epoch, on_step if fabric.is_global_zero else None)
            if held is not None and run.is_validated(epoch):
                row["validation"] = run.validate(held, epoch)
            run.rows.append(row)
            if fabric.is_global_zero:
                _publish(run, sink, on_epoch)
        for companion in run.companions:
            companion.finish(run)
        model.eval()
        return FitResult(model, run.rows)


def _publish(
    run: Run, sink: Sink | None, on_epoch: Callable[[dict[str, Any]], None] | None
) -> None:
    """Give the last row to whoever wants it, metrics before the checkpoint."""
    row = run.rows[-1]
    if sink is not None:
        sink.append_metrics(row)
        sink.save_checkpoint(run.state())
    if on_epoch is not None:
        on_epoch(row)


def _resume(run: Run, sink: Sink) -> None:
    state = sink.load_checkpoint()
    if state is not None:
        run.restore(state)
    if run.fabric.is_global_zero:
        sink.rewind_metrics(len(run.rows))


def _prepare(
    fabric: Fabric,
    model: nn.Module,
    train: ImageSet,
    method: Method,
    settings: Settings,
    augment: Augment | None,
) -> Run:
    """Check the data, trace the model and move everything to the device."""
    graph = trace(model, train.shape)
    check_labels(train.labels, graph.classes, len(train))
    count = steps(len(train), settings.batch_size)
    last = len(train) - (count - 1) * settings.batch_size
    normalised = any(isinstance(module, _BatchNorm) for module in model.modules())
    if normalised and last < 2 * fabric.world_size:
        raise ConfigError(
            f"train.batch_size = {settings.batch_size} leaves {last} of {len(train)} images for "
            "the last batch, too few for batch normalisation; choose another batch size"
        )
    optimiser = _optimiser(model, settings)
    objective, optimiser = fabric.setup(
        Objective(model, graph, method, settings.regularise), optimiser
    )
    return Run(
        fabric=fabric,
        model=model,
        graph=graph,
        method=method,
        settings=settings,
        objective=objective,
        optimiser=optimiser,
        images=train.to(fabric.device),
        steps=count,
        augment=None if augment == Augment() else augment,
    )


def _optimiser(model: nn.Module, settings: Settings) -> Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError("the model has no parameter to train; set requires_grad=True on some")
    # decay would close the range of a ramp, or make NaN of an infinite one, and empty a cell
    others = no_weights(model)
    lr, decay = settings.lr, settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in others], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) in others], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "adam":
        return Adam(groups, lr=lr)
    if settings.optimiser == "adamw":
        return AdamW(groups, lr=lr)
    if settings.optimiser == "radam":
        return RAdam(groups, lr=lr)
    return SGD(groups, lr=lr, momentum=settings.momentum)
