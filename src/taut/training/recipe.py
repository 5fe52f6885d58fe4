"""Recipes: a training run and its certification, written down in one small TOML file."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

from taut.errors import ConfigError, first_line
from taut.training.activation import ActivationSchedule
from taut.training.choose import AXES, choose
from taut.training.methods import GridPoint, Method
from taut.training.rates import RateSchedule
from taut.training.regularise import Regularisers
from taut.training.scaling import changed_fields, merged, scaled
from taut.training.schedule import EpsRamp
from taut.training.sections import build, describe, unknown
from taut.training.settings import Settings, Train, at_least, radius

TuneBy = Literal["cell-accuracy", "certified"]


@dataclass(frozen=True)
class DataSection:
    """``[data]``: which images.

    Parameters
    ----------
    name
        A data set of ``taut data``.
    augment
        An augmentation by name; ``none`` leaves the images as they are.

    """

    name: str
    augment: str = "none"


@dataclass(frozen=True)
class ModelSection:
    """``[model]``: which network.

    Parameters
    ----------
    name
        A network of ``taut models``.
    options
        Keyword arguments of its factory.

    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSection:
    """``[method]``: a training method by name, and the fields in which it differs from it.

    In TOML the fields stand beside the name; see :func:`taut.training.choose.choose`.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Method:
        """Return the method; raises :class:`ConfigError` where a field does not fit."""
        return choose(self.name, self.fields)

    def scaled(self, factor: float) -> MethodSection:
        """Return the section with all epochs of its method scaled, those of its defaults too."""
        method = self.build()
        parts = [method]
        if isinstance(method, GridPoint):
            parts = [getattr(method, axis) for axis in AXES]
        fields = self.fields
        for part in parts:
            fields = merged(fields, changed_fields(part, scaled(part, factor)))
        return dataclasses.replace(self, fields=fields)


@dataclass(frozen=True)
class CertifySection:
    """``[certify]``: how the trained network is verified.

    Parameters
    ----------
    eps
        Radius in pixels of [0, 1]; validation during training certifies at it too.
    stages
        Stages of the cascade in order, ``clean`` first, each only on the images still undecided.
    steps, restarts
        Of the attack stage.

    """

    eps: float
    stages: tuple[str, ...] = ("clean", "ibp", "crown-ibp", "attack", "crown")
    steps: int = 40
    restarts: int = 1

    def __post_init__(self) -> None:
        radius("certify.eps", self.eps)
        at_least("certify.steps", self.steps, 1)
        at_least("certify.restarts", self.restarts, 1)


@dataclass(frozen=True)
class TuneSection:
    """``[tune]``: how `taut tune` chooses the number of cells.

    Parameters
    ----------
    cells
        Numbers of cells to train with, tried from the coarsest grid on.
    by
        What counts on validation images: ``cell-accuracy``, or ``certified``, the accuracy that
        IBP and CROWN-IBP prove at ``certify.eps``.
    stop
        Try no finer grid once the loss would not gain from narrower cells; with
        ``cell-accuracy`` only, and for cells that emit their ends.

    Raises
    ------
    ConfigError
        When a number is below 1 or given twice.

    """

    cells: tuple[int, ...] = ()
    by: TuneBy = "cell-accuracy"
    stop: bool = True

    def __post_init__(self) -> None:
        if self.by not in get_args(TuneBy):
            raise ConfigError(f"tune.by must be cell-accuracy or certified; got {self.by!r}")
        if any(n < 1 for n in self.cells) or len(set(self.cells)) != len(self.cells):
            raise ConfigError(
                f"tune.cells must be different numbers of cells from 1 on; got {list(self.cells)}"
            )


@dataclass(frozen=True)
class Recipe:
    """One run: data, network, method, training, schedules and certification."""

    data: DataSection
    model: ModelSection
    method: MethodSection
    train: Train
    schedule: EpsRamp
    lr: RateSchedule
    certify: CertifySection
    regularise: Regularisers = field(default_factory=Regularisers)
    activation: ActivationSchedule = field(default_factory=ActivationSchedule)
    tune: TuneSection = field(default_factory=TuneSection)
    title: str = ""

    def settings(self) -> Settings:
        """Return what :func:`taut.training.fit` needs."""
        shared = {f.name: getattr(self.train, f.name) for f in dataclasses.fields(self.train)}
        return Settings(
            **shared,
            schedule=self.schedule,
            rate=self.lr,
            regularise=self.regularise,
            activation=self.activation,
            validation_eps=self.certify.eps,
        )

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with all that counts epochs scaled in proportion to its length.

        The epochs of the run are ``factor`` times as many, rounded and at least 1. By the
        proportion that this comes to, every other number of epochs is scaled: of ramps, rates,
        averages and activations, and of the method. Whole numbers are rounded, and stay at
        least 1 where they were; milestones may fall inside an epoch.

        Raises
        ------
        ConfigError
            When ``factor`` is no positive number.

        """
        if not 0.0 < factor < math.inf:
            raise ConfigError(f"a recipe is scaled by a positive number; got {factor:g}")
        epochs = max(1, math.floor(self.train.epochs * factor + 0.5))
        share = epochs / self.train.epochs
        first = self.train.average_from
        average_from = min(max(math.floor(first * share + 0.5), min(first, 1)), epochs - 1)
        train = dataclasses.replace(
            self.train, average_from=0
        )  # else none might be left to average
        return dataclasses.replace(
            self,
            method=self.method.scaled(share),
            train=dataclasses.replace(
                scaled(train, share), epochs=epochs, average_from=average_from
            ),
            schedule=scaled(self.schedule, share),
            lr=scaled(self.lr, share),
            activation=scaled(self.activation, share),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that :func:`from_dict` turns back into an equal recipe."""
        plain = dataclasses.asdict(self)
        plain["method"] = {"name": self.method.name, **copy.deepcopy(self.method.fields)}
        if self.tune == TuneSection():  # most recipes have nothing to tune
            del plain["tune"]
        result = _lists(plain)
        assert isinstance(result, dict)
        return result


SECTIONS: Mapping[str, type] = {
    "data": DataSection,
    "model": ModelSection,
    "method": MethodSection,
    "train": Train,
    "schedule": EpsRamp,
    "lr": RateSchedule,
    "regularise": Regularisers,
    "activation": ActivationSchedule,
    "certify": CertifySection,
    "tune": TuneSection,
}
"""The tables of a recipe; those of :data:`OPTIONAL` may be left out."""

OPTIONAL = ("schedule", "lr", "regularise", "activation", "tune")


def from_dict(table: Any) -> Recipe:
    """Return the recipe a mapping of tables describes.

    Raises
    ------
    ConfigError
        One line that names the key: unknown (with the nearest known one), missing, of the wrong
        type, or out of range.

    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"a recipe must be a table of sections; got {describe(table)}")
    for key in table:
        if key not in SECTIONS and key != "title":
            raise unknown("section", str(key), str(key), [*SECTIONS, "title"], "a recipe has")
    title = table.get("title", "")
    if not isinstance(title, str):
        raise ConfigError(f"title must be a string; got {describe(title)}")
    parts: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        if name not in table and name not in OPTIONAL:
            raise ConfigError(f"the recipe has no section [{name}]; add it")
        content = table.get(name, {})
        if name == "method":
            content = _method_table(content)
        parts[name] = build(cls, content, name)
    recipe = Recipe(**parts, title=title)
    recipe.method.build()  # its fields are checked now rather than when training begins
    return recipe


def _method_table(content: Any) -> Any:
    """Gather the fields that stand beside a method's name."""
    if not isinstance(content, Mapping):
        return content
    fields = {str(key): value for key, value in content.items() if key != "name"}
    named = {"name": content["name"]} if "name" in content else {}
    return {**named, "fields": fields}


def names() -> list[str]:
    """Return the names of the recipes that come with taut."""
    return sorted(_shipped())


@functools.cache
def _shipped() -> Mapping[str, Traversable]:
    """Return the files of the recipes that come with taut, by name."""
    return dict(_walk(files("taut").joinpath("recipes"), ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".toml"):
            found.append((prefix + entry.name.removesuffix(".toml"), entry))
    return found


def load(name_or_path: str | Path) -> Recipe:
    """Return a recipe by the name of one that comes with taut, or by the path of a TOML file.

    Raises
    ------
    ConfigError
        When there is no such recipe (with the list of names), the file cannot be read or is no
        TOML, or a key does not fit.

    """
    known = _shipped()
    name = str(name_or_path)
    source: Traversable | Path
    if name in known:
        source = known[name]
    else:
        source = Path(name_or_path)
        if not source.is_file():
            has = f"no such file; `taut recipes` lists {len(known)}, among them"
            short = [each for each in sorted(known) if "/" not in each]
            raise unknown("recipe", name, name, sorted(known), has, short)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {name} cannot be read: {error}") from error
    return loads(text, name)


def loads(text: str, name: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes; ``name`` stands in its error messages."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers that are too long
        raise ConfigError(f"{name} is not valid TOML: {first_line(error)}") from error
    try:
        return from_dict(table)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def apply_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with ``section.key=value`` settings applied in order.

    A value is read as TOML (``5``, ``0.3``, ``true``, ``[25, 42]``, ``"text"``) and, where that
    fails, taken as a string, so that ``data.name=mnist`` needs no quotes.

    Raises
    ------
    ConfigError
        For text without ``=``, an unknown section or key, or a value that does not fit.

    """
    table = recipe.to_dict()
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise ConfigError(f"{text!r} is no setting; write section.key=value")
        if keys[0] not in SECTIONS and keys != ["title"]:
            raise unknown("section", keys[0], keys[0], [*SECTIONS, "title"], "a recipe has")
        at = table
        for depth, key in enumerate(keys[:-1], start=1):
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                shown = ".".join(keys[:depth])
                raise ConfigError(f"{shown} is no table, so {text!r} cannot be set")
        at[keys[-1]] = _value(value.strip())
    return from_dict(table)


def _value(text: str) -> Any:
    """Read a value as TOML, else as a string."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # more than one key means that the text went on after the value
    return found["value"] if list(found) == ["value"] else text


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
