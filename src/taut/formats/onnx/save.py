"""From an ``nn.Module`` to an ONNX file, by PyTorch's own exporter."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taut.errors import ConfigError, ModelError, TautError, first_line
from taut.formats.onnx.load import network_of
from taut.formats.onnx.read import require_onnx
from taut.graph import trace

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Version of the ONNX operators written: the one PyTorch's exporter is made for."""

_SAMPLES = 3
_TOLERANCE = {torch.float64: 1e-9}  # of the output scale; 1e-4 in smaller types


def save_onnx(
    model: nn.Module, path: str | os.PathLike[str], input_shape: Sequence[int] | None = None
) -> None:
    """Write a network to an ONNX file with a free batch axis, in evaluation mode.

    The input is called ``input``, the output ``output``; both have ``batch`` as their first
    axis. The file keeps the precision of the model, and no trace of the machine it was
    written on. It is checked by ``onnx.checker``, read back and compared with the model on
    random inputs before it takes the place of an earlier one.

    Parameters
    ----------
    model
        Any module that :func:`taut.trace` takes. It is left in its mode and on its device.
    path
        Where to write, conventionally ``.onnx``.
    input_shape
        Shape of one image, without the batch axis; by default ``model.input_shape``, which
        networks of :func:`~taut.formats.onnx.load_onnx` have.

    Raises
    ------
    ModelError
        When the model cannot be traced or exported, or the file does not compute the same.
    ConfigError
        When the shape is needed and not given, the packages ``onnx`` and ``onnxscript`` are not
        installed, or the file cannot be written.

    """
    _require_packages()
    shape = _shape(model, input_shape)
    trace(model, shape)
    with _evaluating(model):
        proto = _export(model, shape)
        _compare(model, proto, shape, Path(path))
    _write(Path(path), proto.SerializeToString(deterministic=True))


def _require_packages() -> None:
    require_onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"writing ONNX needs the package onnxscript ({error}); pip install 'taut[onnx]'"
        ) from error


def _shape(model: nn.Module, given: Sequence[int] | None) -> tuple[int, ...]:
    shape = getattr(model, "input_shape", None) if given is None else given
    if not isinstance(shape, Sequence):
        raise ConfigError(
            f"{type(model).__name__} does not say what it takes; give input_shape, the shape of "
            "one image such as (1, 28, 28)"
        )
    return tuple(int(size) for size in shape)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode; each gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter prints, logs and warns of to itself; errors come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _inputs(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_SAMPLES, *shape, generator=generator, dtype=torch.float64)
    return x.to(like.device, like.dtype)


def _export(model: nn.Module, shape: tuple[int, ...]) -> ModelProto:
    from torch.onnx import OnnxExporterError

    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (_inputs(model, shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["output"],
                opset_version=OPSET,
                verbose=False,
            )
    except (OnnxExporterError, RuntimeError) as error:
        why = first_line(error)
        raise ModelError(f"PyTorch cannot export {type(model).__name__} to ONNX: {why}") from error
    assert program is not None
    proto = program.model_proto
    _clean(proto)
    return proto


def _clean(proto: ModelProto) -> None:
    """Drop the exporter's notes, which hold paths and source lines."""
    graph = proto.graph
    proto.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.name = "network"
    proto.producer_name, proto.producer_version = "taut", ""


def _compare(model: nn.Module, proto: ModelProto, shape: tuple[int, ...], path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
        again = network_of(proto, path)
    except (onnx.checker.ValidationError, TautError) as error:
        why = first_line(error)
        raise ModelError(f"the exported network cannot be read back: {why}") from error
    x = _inputs(model, shape)
    with torch.no_grad():
        wanted, found = model(x).cpu(), again(x.cpu())
    scale = float(wanted.abs().max()) + 1e-30
    error_of = float((wanted - found).abs().max()) / scale if wanted.shape == found.shape else 1.0
    limit = _TOLERANCE.get(wanted.dtype, 1e-4)
    if not error_of <= limit:
        raise ModelError(
            f"the exported network differs from {type(model).__name__} by {error_of:.1e} of the "
            f"output scale, more than {limit:g}; nothing was written"
        )


def _write(path: Path, content: bytes) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as f:
            part = Path(f.name)
            f.write(content)
        try:
            part.chmod(0o644)
            part.replace(path)
        except OSError:
            part.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
