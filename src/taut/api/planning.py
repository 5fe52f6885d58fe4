"""A training run, from a recipe or from Python objects: the same plan either way."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from taut.api.loading import (
    CUSTOM,
    OPTIONS,
    architecture_of,
    build_model,
    load_data,
    named,
    named_model,
    network_name,
)
from taut.data import AUGMENTATIONS, DATASETS, Augment, ImageSet, find_augmentation
from taut.data.images import Array
from taut.errors import ConfigError, DataError
from taut.graph import trace
from taut.models import ACTIVATIONS, MODELS, cells_from

if TYPE_CHECKING:
    from taut.training import Method, Recipe, Settings

PathLike = str | os.PathLike[str]
Images = ImageSet | tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a training run needs, and the recipe that its run folder keeps.

    ``settings`` may differ from the recipe's in what does not change the result of a run:
    device, processes, threads.
    """

    recipe: Recipe
    model: nn.Module
    architecture: Mapping[str, Any]
    train: ImageSet
    validation: ImageSet | None
    method: Method
    settings: Settings
    augment: Augment


def from_recipe(
    recipe: Recipe, data_dir: PathLike | None = None, *, like: Plan | None = None
) -> Plan:
    """Return the plan of a recipe: load its data, build its network from its seed.

    The images are those of ``like``, a plan of the same data, where it is given.

    Raises
    ------
    ConfigError
        When the recipe names something unknown, or options that do not fit.
    DataError
        When the data set is missing or damaged.

    """
    method = recipe.method.build()
    augment = find_augmentation(recipe.data.augment)
    options = _model_options(recipe.model.options)
    if like is None:
        train = load_data(recipe.data.name, "train", data_dir)
        held: ImageSet | None = load_data(recipe.data.name, "validation", data_dir)
    else:
        train, held = like.train, like.validation
    model = seeded_model(
        recipe.model.name, train.shape, len(train.classes), recipe.train.seed, options
    )
    return Plan(
        recipe,
        model,
        named(architecture_of(model, train.shape, len(train.classes)), model, recipe.model.name),
        train,
        held,
        method,
        recipe.settings(),
        augment,
    )


def refuse_custom(recipe: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where a run was started from Python with objects of its own."""
    names = [(section, recipe[section]["name"]) for section in ("data", "model", "method")]
    for what, name in [*names, ("augmentation", recipe["data"]["augment"])]:
        if str(name).startswith(CUSTOM):
            raise ConfigError(
                f"the {what} {str(name).removeprefix(CUSTOM)!r} of this run was given from Python "
                "and is in no recipe; go on there with taut.fit(..., resume=True)"
            )


def from_objects(
    model: nn.Module | str,
    data: str | Images,
    method: str | Method,
    settings: Settings,
    validation: Images | None,
    augment: str | Augment,
    data_dir: PathLike | None,
) -> Plan:
    """Return the plan of what :func:`taut.fit` was given, with a recipe that describes it."""
    from taut.training import Recipe, Train, choose
    from taut.training.recipe import CertifySection, DataSection, MethodSection, ModelSection

    if isinstance(data, str):
        train: ImageSet = load_data(data, "train", data_dir)
        if validation is None:
            validation = load_data(data, "validation", data_dir)
    else:
        train = image_set(data, model, "train")
    held = None if validation is None else image_set(validation, model, "validation")
    if isinstance(model, str):
        network: nn.Module = seeded_model(model, train.shape, len(train.classes), settings.seed, {})
    else:
        network = model
    classes = trace(network, train.shape).classes
    architecture = architecture_of(network, train.shape, classes)
    if isinstance(model, str):
        architecture = named(architecture, network, model)
    chosen = choose(method, {}) if isinstance(method, str) else method
    table = {"name": method} if isinstance(method, str) else method_table(chosen)
    method_name = table.pop("name")
    transform = find_augmentation(augment) if isinstance(augment, str) else augment
    recipe = Recipe(
        data=DataSection(_data_name(train), _augment_name(transform)),
        model=ModelSection(
            architecture["name"],
            {key: architecture[key] for key in OPTIONS if key in architecture},
        ),
        method=MethodSection(method_name, table),
        train=Train(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(Train)}),
        schedule=settings.schedule,
        lr=settings.rate,
        regularise=settings.regularise,
        activation=settings.activation,
        certify=CertifySection(eps=settings.target_eps),
        title=f"{network_name(architecture)}, {method_name}",
    )
    return Plan(recipe, network, architecture, train, held, chosen, settings, transform)


def image_set(data: Images, model: nn.Module | str, split: str) -> ImageSet:
    """Return the caller's images as a set; the number of classes is the model's."""
    if isinstance(data, ImageSet):
        return data
    if not isinstance(data, tuple) or len(data) != 2:
        raise DataError(
            "data must be the name of a data set, a taut.ImageSet, or a pair (images, labels); "
            f"got {type(data).__name__}"
        )
    images, labels = data
    if isinstance(model, str):
        if model not in MODELS:
            build_model(model)  # raises the error that lists the names
        classes = MODELS[model].classes
    else:
        classes = trace(model, tuple(images.shape[1:])).classes
    return ImageSet.from_tensors(images, labels, classes, split=split)


def seeded_model(
    name: str, shape: tuple[int, ...], classes: int, seed: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build a network whose initial weights depend on the seed alone."""
    from taut.training.streams import derive

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "weights"))
        return named_model(name, shape, classes, options)


def _model_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's ``model.options``, checked.

    ``mean`` and ``std`` are lists of numbers, ``activation`` is a name of
    ``taut.models.ACTIVATIONS``, ``slope`` that of leaky ReLUs, ``cells`` a number of cells or the
    arguments of ``taut.models.Cells``.
    """
    for key, value in options.items():
        if key not in OPTIONS:
            raise ConfigError(
                f"unknown key 'model.options.{key}' (model.options has {', '.join(OPTIONS)})"
            )
        if key == "activation":
            if not isinstance(value, str) or value not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ConfigError(f"model.options.activation must be one of {known}; got {value!r}")
        elif key == "slope":
            if not _is_number(value) or not 0.0 <= value <= 1.0:
                raise ConfigError(f"model.options.slope must lie in [0, 1]; got {value!r}")
        elif key == "cells":
            cells_from(value, "model.options.cells")
        elif not isinstance(value, list | tuple) or not all(_is_number(item) for item in value):
            raise ConfigError(
                f"model.options.{key} must be a list of numbers, one per channel; got {value!r}"
            )
    return dict(options)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _data_name(train: ImageSet) -> str:
    """Return the name of a set that is the whole training split of a known one, else custom."""
    known = DATASETS.get(train.name)
    whole = known is not None and train.split == "train"
    if whole and known is not None and len(train) == known.splits["train"].size:
        return train.name
    return CUSTOM + ("images" if train.name == "custom" else train.name)


def _augment_name(augment: Augment) -> str:
    named = [name for name, known in AUGMENTATIONS.items() if known == augment]
    return named[0] if named else CUSTOM + repr(augment)


def method_table(method: Method) -> dict[str, Any]:
    """Return the ``[method]`` table of a recipe that builds ``method``, else a custom name.

    A named method gives its name; a point of the grid names the members of its axes with
    their fields; what no table can say keeps its ``repr``.
    """
    from taut.training import METHODS, GridPoint, PGDTraining
    from taut.training.choose import AXES

    for name, described in METHODS.items():
        if described.method == method:
            return {"name": name}
    table: dict[str, Any] = {}
    if isinstance(method, PGDTraining):
        table = {"name": "pgd", **dataclasses.asdict(method)}
    elif isinstance(method, GridPoint):
        axes = {axis: _member(getattr(method, axis)) for axis in AXES}
        table = {"name": "ibp", **axes, "statistics": method.statistics}
    if table and _is_plain(table):
        return table
    return {"name": f"{CUSTOM}{type(method).__name__}", "repr": repr(method)}


def _member(value: Any) -> Any:
    """Return an axis's member as a recipe names it, with all its fields."""
    from taut.training.choose import AXES

    names = {cls: name for members in AXES.values() for name, cls in members.items()}
    if type(value) not in names:
        plain = dataclasses.is_dataclass(value) and not isinstance(value, type)
        return dataclasses.asdict(value) if plain else value
    fields = [field.name for field in dataclasses.fields(value)]
    return {"name": names[type(value)], **{key: _member(getattr(value, key)) for key in fields}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | bool | int | float)
