"""``taut.fit``: train a model, with a run folder where one is wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from taut.api import planning
from taut.api.loading import network_name, slope_of
from taut.api.planning import Images, PathLike, Plan
from taut.data import Augment
from taut.errors import RunError, TautError
from taut.store import RunFolder, hash_weights, read_weights
from taut.training import FitResult, Method, Settings, StepInfo
from taut.training import fit as run_loop

OnEpoch = Callable[[dict[str, Any]], None]
OnStep = Callable[[StepInfo], None]


def fit(
    model: nn.Module | str,
    data: str | Images,
    method: str | Method = "crown-ibp",
    *,
    settings: Settings,
    validation: Images | None = None,
    augment: str | Augment = "none",
    data_dir: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Train a model so that its robustness can be proved.

    Parameters
    ----------
    model
        Any module of supported operators, trained in place; or the name of one of
        ``taut models``, built for the data with weights that depend on ``settings.seed``.
    data
        Training images: the name of a data set (its training split), a
        :class:`taut.ImageSet`, or ``(images, labels)``: ``(N, C, H, W)``, uint8 or floating
        point in [0, 1], and ``(N,)``.
    method
        One of ``taut methods`` by name, or a method object such as
        ``taut.training.GridPoint(bound=...)``.
    settings
        Epochs, eps, batch size, optimiser, schedules, seed, device.
    validation
        Images to evaluate on after every epoch, as ``data``; left out, a data set by name
        brings its validation split, and anything else is not evaluated.
    augment
        Augmentation by name, or a :class:`taut.data.Augment`.
    data_dir
        Folder in which a data set is looked for first.
    out
        Run folder to write, exactly as ``taut train`` writes it: configuration, metrics,
        checkpoint after every epoch, weights and ``summary.json`` at the end.
    resume
        Continue the run in ``out`` from its last checkpoint, to the same weights (to the bit
        on a CPU with one thread); a run that is not there is started.
    on_epoch, on_step
        Called with the row of metrics of each epoch, and with a ``StepInfo`` within it.

    Returns
    -------
    FitResult
        ``model``, in evaluation mode, and ``rows``, the metrics of each epoch.

    Raises
    ------
    ConfigError
        When an argument is unknown or out of range.
    DataError
        When data is missing, or labels do not fit the model.
    ModelError
        When the model cannot be traced.
    RunError
        When ``out`` holds another run, or ``resume`` is given without it.
    DivergenceError
        When a loss or a weight is NaN or infinite.

    """
    if resume and out is None:
        raise RunError("resume=True continues the run in a folder; name it with out=")
    plan = planning.from_objects(model, data, method, settings, validation, augment, data_dir)
    if out is None:
        return train(plan, None, False, on_epoch, on_step)
    with run_folder(plan, Path(out), resume=resume) as run:
        return train(plan, run, resume, on_epoch, on_step)


def is_first_process() -> bool:
    """Tell whether this is the process that writes and reports, of those of one run."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def run_folder(plan: Plan, out: Path, *, resume: bool) -> Iterator[RunFolder]:
    """Make the run folder of a plan, or open the one that is there for the same plan.

    The further processes of a data-parallel run find the folder made and only read it. A new
    folder is taken away again where an error ends the run before its first epoch has, so that
    the corrected command finds its place free.
    """
    if not is_first_process():
        with RunFolder.open(out, "train") as run:
            yield run
        return
    fresh = not (out / "config.json").exists()
    content, seed = plan.recipe.to_dict(), plan.recipe.train.seed
    with RunFolder.create(out, "train", content, seed, exist_ok_same=resume) as run:
        try:
            yield run
        except TautError:
            if fresh and not (out / "checkpoint.pt").exists():
                _remove(out)
            raise


def _remove(out: Path) -> None:
    """Delete the few files of a run that has not finished an epoch."""
    for pattern in ("config.json", "metrics.jsonl", "events.out.tfevents.*.taut", ".lock"):
        for path in out.glob(pattern):
            path.unlink()
    if not any(out.iterdir()):
        out.rmdir()


def train(
    plan: Plan,
    run: RunFolder | None,
    resume: bool,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Carry out a plan; with ``run``, leave everything there. The one way runs are made."""
    result = run_loop(
        plan.model,
        plan.train,
        plan.validation,
        plan.method,
        plan.settings,
        augment=plan.augment,
        sink=run,
        resume=resume,
        on_epoch=on_epoch,
        on_step=on_step,
    )
    if run is not None and run.writable:
        _finish(plan, run, result)
    return result


def _finish(plan: Plan, run: RunFolder, result: FitResult) -> None:
    """Leave weights and figures; a finished run that is resumed once more stays as it is."""
    state = result.model.state_dict()
    weights, figures = run.path / "model.safetensors", run.path / "summary.json"
    whole = weights.is_file() and figures.is_file()
    if whole and hash_weights(read_weights(weights)) == hash_weights(state):
        return
    slope = slope_of(result.model)  # a schedule may have changed it
    changed = {} if slope is None else {"slope": slope}
    run.save_weights(state, {**plan.architecture, **changed})
    run.write_summary(summary(plan, result))


def summary(plan: Plan, result: FitResult) -> dict[str, Any]:
    """Return the figures a training run ends with: accuracies on the validation split."""
    last = result.rows[-1]
    held = last["validation"]
    return {
        "kind": "train",
        "natural_accuracy": held.get("natural_accuracy"),
        "attacked_accuracy": None,
        "certified_accuracy": held.get("certified_accuracy"),
        "images": 0 if plan.validation is None else len(plan.validation),
        "eps": plan.settings.target_eps,
        "seconds": sum(row["seconds"] for row in result.rows),
        "verdicts": {},
        "data": plan.train.name,
        "split": "none" if plan.validation is None else plan.validation.split,
        "model": network_name(plan.architecture),
        "method": plan.recipe.method.name,
        "epochs": last["epoch"],
        "loss": last["loss"],
    }
