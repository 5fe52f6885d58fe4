"""From a path to an ONNX model that is complete and well-formed."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taut.errors import ConfigError, ModelError, first_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

Array = npt.NDArray[Any]

OLDEST = 7
"""Before opset 7 arithmetic broadcast by attributes of its own."""

LARGEST = 2**26
"""Numbers that an input may have. A damaged shape should not take all memory."""


@dataclass(frozen=True)
class Port:
    """The input or output of a model.

    Attributes
    ----------
    name
        Of the tensor.
    dtype
        Element type as numpy has it.
    sizes
        One per axis; None for an axis without a number.

    """

    name: str
    dtype: np.dtype[Any]
    sizes: tuple[int | None, ...]


def require_onnx() -> None:
    """Raise :class:`ConfigError` when the package ``onnx`` is not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ONNX files need the package onnx ({error}); pip install 'taut[onnx]'"
        ) from error


def read_model(path: Path) -> ModelProto:
    """Return the model of a ``.onnx`` or ``.onnx.gz`` file, its external data loaded.

    Raises
    ------
    ModelError
        When the file is missing, no ONNX file, breaks the rules of the format, lacks a file it
        refers to, or is of an opset older than :data:`OLDEST`.

    """
    require_onnx()
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(_bytes(path))
    except DecodeError as error:
        raise _no_onnx(path, first_line(error)) from error
    if not model.ir_version or not model.HasField("graph"):
        raise _no_onnx(path, "it holds no graph")
    _load_external(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # its own text, undecoded
        raise ModelError(
            f"{path} breaks the rules of ONNX: {first_line(error)}; export it again"
        ) from error
    if opset_of(model) < OLDEST:
        raise ModelError(
            f"{path} is of opset {opset_of(model)}; taut reads opset {OLDEST} and newer: "
            "convert it with onnx.version_converter"
        )
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ModelError(f"there is no ONNX file {path}; check the path")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ModelError(f"{path} is damaged or truncated ({error}); copy it again") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _no_onnx(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is no ONNX file or is truncated ({why}); copy or export it again")


def opset_of(model: ModelProto) -> int:
    """Return the version of the standard operators; 0 where the file names none."""
    found = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return max(found, default=0)


def _load_external(model: ModelProto, path: Path) -> None:
    from onnx import checker, external_data_helper

    held = [tensor for tensor in _tensors(model.graph) if tensor.external_data]
    if not held:
        return
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, checker.ValidationError) as error:
        files = sorted({e.value for t in held for e in t.external_data if e.key == "location"})
        raise ModelError(
            f"{path} keeps weights in {', '.join(files)}, which cannot be read from the folder "
            f"it lies in: {first_line(error)}"
        ) from error


def check_weights(model: ModelProto, path: Path) -> None:
    """Raise :class:`ModelError` naming the first tensor that is damaged or holds NaN."""
    from onnx import numpy_helper

    for tensor in _tensors(model.graph):
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise ModelError(
                f"{path}: the tensor {tensor.name!r} is damaged, its numbers do not fit its type "
                f"or shape ({first_line(error)}); copy or export the file again"
            ) from error
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ModelError(
                f"{path}: the tensor {tensor.name!r} holds NaN; train or export the network again"
            )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def ports(model: ModelProto, path: Path) -> tuple[Port, Port]:
    """Return the one input and the one output.

    Raises
    ------
    ModelError
        When there are several, or one is not a tensor of floating-point numbers with known
        axes (only the first axis of the input, the batch, may go without a number), or the input
        has more than :data:`LARGEST` numbers.

    """
    named = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in named]
    entry = _port(_only(inputs, "inputs", path), path)
    leave = _port(_only(model.graph.output, "outputs", path), path)
    if not entry.sizes:
        raise ModelError(f"{path}: the input {entry.name!r} has no known axes; export it with some")
    unknown = [axis for axis, size in enumerate(entry.sizes) if size is None]
    if unknown not in ([], [0]) or entry.sizes == (None,):
        raise ModelError(
            f"{path}: the input {entry.name!r} has axes of unknown size, {_by(entry.sizes)}; only "
            "the batch, the first of several axes, may be free: export it with fixed sizes"
        )
    if math.prod(size or 1 for size in entry.sizes) > LARGEST:
        raise ModelError(
            f"{path}: the input {entry.name!r} of shape {_by(entry.sizes)} has more than {LARGEST} "
            "numbers, which are the most that taut takes; check that the file is not damaged"
        )
    return entry, leave


def _only(values: Sequence[ValueInfoProto], what: str, path: Path) -> ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ModelError(f"{path} has {len(values)} {what} ({names}); taut takes networks with one")
    return values[0]


def _port(value: ValueInfoProto, path: Path) -> Port:
    from onnx import helper

    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype("V")
    if dtype not in (np.float16, np.float32, np.float64):
        raise ModelError(
            f"{path}: {value.name!r} holds {dtype.name if kind.elem_type else 'no tensor'}; taut "
            "takes networks from floating-point numbers to floating-point numbers"
        )
    return Port(value.name, np.dtype(dtype), tuple(_size(d) for d in kind.shape.dim))


def _size(dim: Any) -> int | None:
    """Return the size of an axis; exporters write an unknown one in several ways."""
    if not dim.HasField("dim_value") or dim.dim_value <= 0:
        return None
    return int(dim.dim_value)


def _by(sizes: Sequence[int | None]) -> str:
    return " x ".join("?" if size is None else str(size) for size in sizes)
