"""``taut.load_model``, ``taut.build_model`` and ``taut.load_data``."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taut.data import load as load_data
from taut.errors import ConfigError, ModelError, RunError
from taut.models import MODELS, Cells, Normalise, cells_from
from taut.models import build as build_model
from taut.operators.ramp import ParamRamp

__all__ = [
    "architecture_of",
    "build_model",
    "is_onnx",
    "load_data",
    "load_model",
    "network_name",
    "onnx_architecture",
    "weights_path",
]

CUSTOM = "custom:"
"""Marks the name of a network, data set or method that did not come from a table of taut."""

KINDS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky-relu",
    ParamRamp: "param-ramp",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
"""The name in ``taut.models.ACTIVATIONS`` of each class of activations."""

OPTIONS = ("mean", "std", "activation", "slope", "cells")
"""What a recipe and a weights file may say of a named network."""


def load_model(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Return the network of a run folder, weights or ONNX file, in evaluation mode, on the CPU.

    Parameters
    ----------
    path
        A run folder whose training is finished, or a ``.safetensors`` file of taut, which
        names its network; with ``model`` also other ``.safetensors``, ``.pt`` and ``.pth``
        files of weights; or a ``.onnx`` or ``.onnx.gz`` file, see
        :func:`~taut.formats.onnx.load_onnx`. No code in them is run.
    model
        The network to copy the weights into, for one that is not in ``taut models``. It is
        returned itself, on its own device, in evaluation mode.

    Raises
    ------
    RunError
        When there is nothing at ``path``, or a run whose training is not finished.
    ModelError
        When the file is damaged, of another network, or names none that taut knows.
    ConfigError
        When ``model`` is given for an ONNX file, or the package ``onnx`` is not installed.

    """
    if is_onnx(Path(path)):
        from taut.formats.onnx import load_onnx

        if model is not None:
            raise ConfigError(f"{path} holds a network, not weights alone; leave out the model")
        return load_onnx(path)
    from taut.store import load_weights, read_architecture  # a tenth of a second of imports

    weights = weights_path(Path(path))
    if model is None:
        model = _build(read_architecture(weights), weights)
    elif weights.suffix == ".safetensors":
        _set_slope(model, stored_slope(weights))
    load_weights(weights, model)
    return model.eval()


def weights_path(path: Path) -> Path:
    """Return the weights file at ``path`` or in the run folder there."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise RunError(f"there is no run folder and no weights file {path}; check the path")
    found = path / "model.safetensors"
    if found.is_file():
        return found
    if (path / "config.json").is_file():
        from taut.store import RunFolder

        RunFolder.open(path, "train")
        raise RunError(
            f"{path} has no weights yet, its training is not finished; "
            f"go on with `taut train --resume {path}`"
        )
    raise RunError(f"{path} is no run folder: it has no config.json; check the path")


def is_onnx(path: Path) -> bool:
    """Whether a path names an ONNX file, by its ending."""
    return path.name.endswith((".onnx", ".onnx.gz"))


def onnx_architecture(
    path: Path, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return for an ONNX file what a weights file says of its network.

    The name is that of the file with the start of its hash, since the weights alone do not
    tell two networks apart.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    stem = path.name.removesuffix(".gz").removesuffix(".onnx")
    classes = math.prod(output_shape)
    name = f"{CUSTOM}{stem}-{digest}"
    return {"name": name, "input_shape": list(input_shape), "classes": classes}


def _build(architecture: Mapping[str, Any], weights: Path) -> nn.Module:
    name = str(architecture["name"])
    if name not in MODELS:
        raise ModelError(
            f"{weights} holds the network {network_name(architecture)!r}, which is not one of "
            "taut's; build it in Python and call taut.load_model(path, model)"
        )
    return named_model(name, architecture["input_shape"], architecture["classes"], architecture)


def named_model(
    name: str, shape: Sequence[int], classes: int, options: Mapping[str, Any]
) -> nn.Sequential:
    """Return a fresh network by name; ``options`` may hold the keys of :data:`OPTIONS`."""
    taken = ("mean", "std", "activation", "cells")
    given = {key: options[key] for key in taken if key in options}
    model = build_model(name, shape, classes, **given)
    if options.get("slope") is not None and not any(
        isinstance(module, nn.LeakyReLU | ParamRamp) for module in model.modules()
    ):
        raise ConfigError(
            f"model.options.slope is that of leaky-relu and param-ramp, and {name} has neither; "
            "set model.options.activation too, or leave slope out"
        )
    _set_slope(model, options.get("slope"))
    return model


def stored_slope(weights: Path) -> float | None:
    """Return the slope of leaky ReLUs in a weights file, None where it says nothing of it."""
    from taut.store import read_architecture

    try:
        found = read_architecture(weights).get("slope")
    except ModelError:  # weights from elsewhere; a file that is damaged fails when it is loaded
        return None
    return None if found is None else float(found)


def slope_of(model: nn.Module) -> float | None:
    """Return the slope all leaky ReLUs of a model share; None where there is none, or several."""
    found = {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)}
    return found.pop() if len(found) == 1 else None


def _set_slope(model: nn.Module, slope: float | None) -> None:
    """Give all leaky ReLUs and ramps an outer slope; of the former it is in no weight."""
    if slope is None:
        return
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = slope
        elif isinstance(module, ParamRamp):
            module.set_eta(slope)


def network_name(architecture: Mapping[str, Any]) -> str:
    """Return what people call the network of an architecture."""
    return str(architecture["name"]).removeprefix(CUSTOM)


def architecture_of(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """Return what a weights file says of a network: the keys of :mod:`taut.store.weights`.

    A network that is layer by layer one of :data:`taut.models.MODELS` gets that name, with
    the constants of its normalisation and, where it is not the network's own, the name of its
    activation; any other one the name of its class, marked custom. ``slope`` is that of leaky
    ReLUs, which is in no weight.
    """
    found: dict[str, Any] = {"input_shape": list(input_shape), "classes": classes}
    first = next(model.children(), None)
    if isinstance(first, Normalise):
        found |= {"mean": first.mean.flatten().tolist(), "std": first.std.flatten().tolist()}
    elif isinstance(first, Cells):
        found["cells"] = first.configuration()
    slope = slope_of(model)
    if slope is not None:
        found["slope"] = slope
    text, activation = _skeleton(model), _activation(model)
    for name in MODELS if isinstance(model, nn.Sequential) and len(input_shape) == 3 else ():
        if activation is None or _skeleton(_meta(name, found)) != text:
            continue
        if activation != MODELS[name].activation:
            found["activation"] = activation
        if _shapes(_meta(name, found)) == _shapes(model):
            return {"name": name, **found}
        found.pop("activation", None)
    return {"name": CUSTOM + type(model).__name__, **found}


def named(architecture: Mapping[str, Any], model: nn.Module, name: str) -> dict[str, Any]:
    """Return an architecture under the name its network was built by.

    Several names can stand for the same layers, with activations of their own.
    """
    found = {key: value for key, value in architecture.items() if key != "activation"}
    activation = _activation(model)
    if activation is not None and activation != MODELS[name].activation:
        found["activation"] = activation
    return found | {"name": name}


def _activation(model: nn.Module) -> str | None:
    """Return the name of the one activation a model has; None for none, several or others."""
    found = {KINDS[type(m)] for m in model.modules() if type(m) in KINDS}
    one_slope = slope_of(model) is not None
    return found.pop() if len(found) == 1 and ("leaky-relu" not in found or one_slope) else None


def _skeleton(model: nn.Module | None) -> str:
    """Return a model's text with the activations of :data:`KINDS` blotted out."""
    names = "|".join(kind.__name__ for kind in KINDS)
    return re.sub(rf"^(\s*\(\w+\): )({names})\(.*\)$", r"\1activation", repr(model), flags=re.M)


def _shapes(model: nn.Module | None) -> dict[str, torch.Size]:
    return {} if model is None else {name: v.shape for name, v in model.state_dict().items()}


def _meta(name: str, like: Mapping[str, Any]) -> nn.Module | None:
    """Return a named network without weights; None where it cannot take such images."""
    activation, shape = like.get("activation"), list(like["input_shape"])
    grid = None if "cells" not in like else cells_from(like["cells"])
    if grid is not None:
        shape[0] = grid.channels(shape[0])
    try:
        with torch.device("meta"):
            network = build_model(name, shape, like["classes"], activation=activation)
    except ConfigError:  # the images are too small for this network, so it is not the one
        return None
    if grid is not None:
        return nn.Sequential(grid, *network)
    if "mean" in like:
        return nn.Sequential(Normalise(like["mean"], like["std"]), *network)
    return network
