"""``taut.tune``: how many cells a recipe's network should see its pixels through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from taut.api import fitting, planning
from taut.api.cells import required_cells
from taut.api.fitting import OnEpoch, OnStep
from taut.api.planning import PathLike, Plan
from taut.attacks import evaluating
from taut.data import ImageSet, batches
from taut.errors import ConfigError, RunError, first_line
from taut.graph import trace
from taut.models import Cells
from taut.store import RunFolder, hash_weights, read_weights
from taut.store.atomic import write_atomic
from taut.store.values import pretty, read_object
from taut.training import Recipe, Settings, load
from taut.training.evaluate import validate
from taut.training.recipe import TuneBy, TuneSection

Watch = Callable[[int, Settings], AbstractContextManager[tuple[OnEpoch | None, OnStep | None]]]
"""Called with the number of cells before each training; hears of its epochs and steps."""

CERTIFIERS = ("ibp", "crown-ibp")
"""Bounding methods whose certified accuracy counts."""

BATCH = 256
"""Images whose gradients are taken together."""


@dataclass(frozen=True)
class Trial:
    """What a network on ``n`` cells reached on validation images.

    Attributes
    ----------
    n
        Cells along a pixel's range.
    cell_accuracy
        See :func:`taut.cell_accuracy`.
    certified_accuracy
        Share that IBP or CROWN-IBP proves at the recipe's ``certify.eps``; None where cells were
        chosen by cell accuracy.
    upper, lower
        Per channel, by how much the mean loss grows when all upper (lower) ends of its cells move
        up by the unit of [-1, 1]; empty for cells that do not emit their ends.
    stops
        Whether these gradients say that finer cells are no better, see :func:`taut.tune`.
    run
        The run folder.
    weights
        SHA-256 of the weights there.

    """

    n: int
    cell_accuracy: float
    certified_accuracy: float | None
    upper: tuple[float, ...]
    lower: tuple[float, ...]
    stops: bool
    run: Path
    weights: str

    @property
    def score(self) -> float:
        """What is compared: certified accuracy where it was measured, else cell accuracy."""
        return self.cell_accuracy if self.certified_accuracy is None else self.certified_accuracy


@dataclass(frozen=True)
class Tuning:
    """The result of :func:`taut.tune`: trials from the coarsest grid on, and what was left out."""

    by: TuneBy
    eps: float
    trials: tuple[Trial, ...]
    untried: tuple[int, ...]

    @property
    def best(self) -> Trial:
        """The trial with the highest score, of equal ones the coarsest."""
        return max(self.trials, key=lambda trial: (trial.score, -trial.n))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``tuning.json`` holds; run folders are relative to it."""
        return {
            "by": self.by,
            "eps": self.eps,
            "best": self.best.n,
            "trials": [
                {**dataclasses.asdict(trial), "run": trial.run.name} for trial in self.trials
            ],
            "untried": list(self.untried),
        }


def tune(
    recipe: Recipe | PathLike,
    cells: Sequence[int] | None = None,
    *,
    out: PathLike,
    by: TuneBy | None = None,
    data_dir: PathLike | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    threads: int | None = None,
    watch: Watch | None = None,
) -> Tuning:
    r"""Train a recipe with several numbers of cells and find the best on validation images.

    Grids are tried from the coarsest on. Every network starts anew: weights, biases and buffers
    depend on the recipe's seed alone. Test images are not read.

    With ``by="cell-accuracy"`` no finer grid is tried once

    .. math:: \frac{\partial \bar L}{\partial u_c} \le 0 \quad\text{and}\quad
        \frac{\partial \bar L}{\partial l_c} \ge 0 \quad\text{for every channel } c,

    L being the mean cross-entropy on the validation images, and :math:`u_c, l_c` a shift of the
    upper and lower ends of the cells in channel c. Finer cells have lower upper ends and higher
    lower ones, and by these slopes neither lowers the loss. All channels share a grid, so a
    finer one is worth a trial as long as one of them gains.

    Each grid is trained in a run folder of its own, ``out/n-N``. A tuning that was interrupted
    goes on when it is called again in the same way.

    Parameters
    ----------
    recipe
        A recipe, its name, or the path of its file; its network has ``cells``.
    cells
        Numbers of cells; the recipe's ``tune.cells`` where left out.
    out
        Folder of the tuning: ``config.json``, ``tuning.json`` with the figures, the runs.
    by
        ``"cell-accuracy"``, as published, or ``"certified"``: the accuracy that IBP and CROWN-IBP
        prove at ``certify.eps``. The recipe's ``tune.by`` where left out.
    data_dir
        Folder in which the data set is looked for first.
    device, threads
        In place of the recipe's.
    watch
        Told of each training.

    Raises
    ------
    ConfigError
        When the network has no cells to choose, there are none to try, or cells are narrower than
        the ball of radius eps, for which cell accuracy has no meaning.
    RunError
        When ``out`` holds something else.
    DataError, ModelError, DivergenceError
        As in :func:`taut.fit`.

    References
    ----------
    Zhang et al., *Boosting verified training for robust image classifications via abstraction*
    (2023), Algorithm 3. There the best network on the test images counts.

    """
    chosen = prepare(recipe if isinstance(recipe, Recipe) else load(Path(recipe)), cells, by)
    path = Path(out)
    given: dict[str, Any] = {"device": device, "threads": threads}
    given = {key: value for key, value in given.items() if value is not None}

    def planned(n: int, like: Plan | None) -> Plan:
        made = planning.from_recipe(on_cells(chosen, n), data_dir, like=like)
        return dataclasses.replace(made, settings=dataclasses.replace(made.settings, **given))

    numbers, plan = chosen.tune.cells, None
    if not (path / "config.json").exists():  # what cannot begin leaves no folder behind
        plan = planned(numbers[0], None)
    with RunFolder.create(
        path, "tune", chosen.to_dict(), chosen.train.seed, exist_ok_same=True
    ) as folder:
        known = _known(folder)
        trials: list[Trial] = []
        for place, n in enumerate(numbers, start=1):
            trial = known.get(n)
            if trial is None:
                plan = planned(n, plan)
                trial = _carry_out(plan, path / f"n-{n}", n, watch)
            trials.append(trial)
            stops = chosen.tune.stop and trial.stops and chosen.tune.by == "cell-accuracy"
            left = numbers[place:] if stops else ()
            result = Tuning(chosen.tune.by, chosen.certify.eps, tuple(trials), left)
            write_atomic(path / "tuning.json", pretty(result.to_dict(), "the tuning"))
            if stops:
                break
    return result


def prepare(recipe: Recipe, cells: Sequence[int] | None = None, by: TuneBy | None = None) -> Recipe:
    """Return the recipe with what is to be tried in its ``[tune]``, checked and in order.

    Raises
    ------
    ConfigError
        As :func:`tune`.

    """
    section = TuneSection(
        tuple(sorted(recipe.tune.cells if cells is None else cells)),
        recipe.tune.by if by is None else by,
        recipe.tune.stop,
    )
    if not section.cells:
        raise ConfigError("there are no numbers of cells to try: give some, such as --cells 2,3,5")
    chosen = dataclasses.replace(recipe, tune=section)
    if chosen.train.devices > 1:
        raise ConfigError("tuning trains in one process; set train.devices = 1")
    for n in section.cells:
        Cells(**on_cells(chosen, n).model.options["cells"])
    eps = chosen.certify.eps
    most = math.inf if eps == 0 else math.floor(1 / (2 * eps) + 1e-9)
    if section.by == "cell-accuracy" and section.cells[-1] > most:
        raise ConfigError(
            f"{section.cells[-1]} cells are narrower than a ball of radius certify.eps = {eps:g}, "
            f"so cell accuracy has no meaning for them: try at most {most}, or choose by certified"
        )
    return chosen


def on_cells(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe with ``n`` cells, or raise :class:`ConfigError` where it has none."""
    given = recipe.model.options.get("cells")
    if given is None:
        raise ConfigError(
            f"the recipe's {recipe.model.name} has no cells to choose; give it some, such as "
            "--set 'model.options.cells={ n = 2, emit = \"ends\" }'"
        )
    options = dict(given) if isinstance(given, Mapping) else {}
    if "thresholds" in options:
        raise ConfigError("the recipe's cells are given by their thresholds; give their number n")
    changed = {**recipe.model.options, "cells": {**options, "n": n}}
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, options=changed))


def _carry_out(plan: Plan, path: Path, n: int, watch: Watch | None) -> Trial:
    """Train on ``n`` cells, or go on with it, and measure what counts."""
    hearing = nullcontext((None, None)) if watch is None else watch(n, plan.settings)
    with (
        hearing as (on_epoch, on_step),
        fitting.run_folder(plan, path, resume=True) as run,
    ):
        result = fitting.train(plan, run, True, on_epoch, on_step)
        figures = result.rows[-1]["validation"]
        assert plan.validation is not None
        held = plan.validation.to(next(result.model.parameters()).device)
        certified = None
        if plan.recipe.tune.by == "certified":
            graph = trace(result.model, held.shape)
            eps = plan.settings.target_eps
            certified = validate(graph, held, eps, CERTIFIERS)["certified_accuracy"]
        upper, lower = slopes(result.model, held)
        return Trial(
            n=n,
            cell_accuracy=figures["natural_accuracy"],
            certified_accuracy=certified,
            upper=upper,
            lower=lower,
            stops=stops_at(upper, lower),
            run=path,
            weights=hash_weights(read_weights(run.path / "model.safetensors")),
        )


def slopes(model: nn.Module, images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Return the derivatives of the mean loss by a shift of the upper and of the lower ends.

    One number per channel c of the images, the mean over images i of
    :math:`\sum_p \partial L_i / \partial u_{icp}` over pixels p, and of the lower ends; both empty
    where the model's cells do not emit their ends.

    Parameters
    ----------
    model
        A sequence of modules that begins with :class:`taut.models.Cells`.
    images
        Labelled images on the model's device.

    """
    cells = required_cells(model)
    if cells.emit != "ends" or not isinstance(model, nn.Sequential):
        return (), ()
    rest, total = model[1:], torch.zeros(2 * images.shape[0], dtype=torch.float64)
    dtype = next(model.parameters()).dtype
    with evaluating(model):
        for x, y, _ in batches(images, BATCH):
            ends = cells(x.to(dtype)).detach().requires_grad_()
            loss = F.cross_entropy(rest(ends), y, reduction="sum")
            (grad,) = torch.autograd.grad(loss, ends)
            total += grad.double().sum((0, 2, 3)).cpu()
    upper, lower = (total / len(images)).chunk(2)
    return tuple(upper.tolist()), tuple(lower.tolist())


def stops_at(upper: Sequence[float], lower: Sequence[float]) -> bool:
    """Tell whether no channel's loss falls with lower upper ends or with higher lower ends."""
    return bool(upper) and all(u <= 0 for u in upper) and all(v >= 0 for v in lower)


_MEASURED_AGAIN = "delete it; the finished runs beside it are measured again"


def _known(folder: RunFolder) -> dict[int, Trial]:
    """Return the trials of an earlier call whose weights are still those measured."""
    path = folder.path / "tuning.json"
    if not path.is_file():
        return {}
    found = {}
    held = read_object(path, _MEASURED_AGAIN)
    try:
        for row in cast("list[dict[str, Any]]", held["trials"]):
            run = folder.path / str(row["run"])
            weights = run / "model.safetensors"
            if weights.is_file() and hash_weights(read_weights(weights)) == row["weights"]:
                ends = {key: tuple(row[key]) for key in ("upper", "lower")}
                found[int(row["n"])] = Trial(**{**row, **ends, "run": run})
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} does not hold what a tuning writes ({first_line(error)}); {_MEASURED_AGAIN}"
        ) from error
    return found
