"""From RUN_OR_WEIGHTS and the shared options to a network, images and a radius."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taut.api.loading import (
    CUSTOM,
    is_onnx,
    load_data,
    load_model,
    onnx_architecture,
    weights_path,
)
from taut.cli.common import parse_eps
from taut.data import DATASETS, ImageSet
from taut.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from taut.training.recipe import CertifySection


@dataclass(frozen=True, eq=False)
class Source:
    """A trained network and where it came from.

    ``run`` is the run folder, ``data`` and ``certify`` what its recipe says; None for a
    weights file.
    """

    model: nn.Module
    architecture: Mapping[str, Any]
    weights: Path
    run: Path | None = None
    data: str | None = None
    certify: CertifySection | None = None

    def images(
        self, data: str | None, split: str, first: int | None, data_dir: Path | None
    ) -> ImageSet:
        """Load the images to work on; the run's data set unless another is named."""
        name = data or self.data
        if name is None or name.startswith(CUSTOM):
            raise ConfigError(
                f"{self.weights} does not say which data set it is for; name one with --data "
                f"({', '.join(DATASETS)})"
            )
        found = load_data(name, split, data_dir)
        shape = tuple(self.architecture["input_shape"])
        flat = len(shape) != 3 and prod(found.shape) == prod(shape)  # takes pixels in their order
        if tuple(found.shape) != shape and not flat:
            raise DataError(
                f"{name} has images of shape {_by(found.shape)} and the network takes "
                f"{_by(shape)}; name another data set with --data"
            )
        return found if first is None else found.first(first)

    def radius(self, eps: str | None) -> float:
        """Return eps; the run's unless another is given."""
        if eps is not None:
            return parse_eps(eps)
        if self.certify is None:
            raise ConfigError(f"{self.weights} comes without a recipe; give the radius with --eps")
        return self.certify.eps

    def folder(self, out: Path | None, name: str) -> Path:
        """Return where results go: ``--out``, in the run, or beside the weights file."""
        if out is not None:
            return out
        if self.run is not None:
            return self.run / name
        return self.weights.parent / f"{self.weights.stem}-{name}"


def open_source(path: Path, device: str = "auto") -> Source:
    """Load the network of a run folder, weights or ONNX file onto a device."""
    from taut.store import RunFolder, read_architecture
    from taut.training.recipe import CertifySection
    from taut.training.sections import build

    if is_onnx(path):
        return _open_onnx(path, device)
    weights = weights_path(path)
    recipe = RunFolder.open(path, "train").recipe if path.is_dir() else None
    model = load_model(path).to(pick_device(device))
    architecture = read_architecture(weights)
    if recipe is None:
        return Source(model, architecture, weights)
    certify = build(CertifySection, recipe.get("certify"), "certify")
    return Source(model, architecture, weights, path, str(recipe["data"]["name"]), certify)


def _open_onnx(path: Path, device: str) -> Source:
    from taut.formats.onnx import accepting_images, load_onnx

    network = load_onnx(path)
    model, shape = accepting_images(network)
    architecture = onnx_architecture(path, shape, network.output_shape)
    return Source(model.to(pick_device(device)), architecture, path)


def pick_device(name: str) -> str:
    """Return ``cpu`` or ``cuda``."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda; got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda but PyTorch finds no GPU; use cpu or auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
