"""``model.safetensors``: the weights of a network, and which network it is.

Format
------
A safetensors file (8 bytes with the header's length, little-endian; the header,
a JSON object; the tensors' bytes). Each entry of the state dict is one tensor
under its own name; tied tensors are written once per name. The header's
``__metadata__`` holds two strings:

``architecture``
    a JSON object: ``name`` (string), ``input_shape`` (list of positive
    integers, without the batch), ``classes`` (positive integer), and, when the
    network normalises its input, ``mean`` and ``std`` (lists of numbers, one per
    channel or one for all; ``std`` positive). Further keys are allowed.
``taut``
    the version that wrote the file.

Metadata and names are in a fixed order, so that equal weights of one
architecture and version give equal bytes.

Weights made elsewhere can be read too: safetensors files without metadata, and
PyTorch files (``.pt``, ``.pth``) that hold a state dict, alone, under
``state_dict`` or ``model_state_dict``, or as a checkpoint of taut. PyTorch files
are read with ``weights_only=True``: no code in them is run.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from taut._version import __version__
from taut.errors import ModelError
from taut.store.atomic import write_atomic
from taut.store.values import canonical, freeze, parse_object

_PYTORCH = {".pt", ".pth"}
_NESTED = (("state_dict",), ("model_state_dict",), ("content", "state", "weights"))
_ANOTHER = "this is a weights file of another network; pass the model it was trained with"


def save_weights(
    path: Path, state_dict: Mapping[str, Tensor], architecture: Mapping[str, object]
) -> None:
    """Write ``state_dict`` to the safetensors file at ``path``, replacing it at once.

    ``architecture`` holds the keys this module's page names. Tensors are
    copied to the CPU; shared and non-contiguous ones become dense copies.

    Raises
    ------
    ModelError
        When an entry is no dense tensor, or ``architecture`` lacks a key.
    RunError
        When the file cannot be written.

    """
    check_architecture(architecture, "the architecture")
    tensors: dict[str, Tensor] = {}
    for name in sorted(state_dict):
        value: object = state_dict[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelError(
                f"entry {name!r} of the weights is no dense tensor; pass model.state_dict()"
            )
        tensors[name] = value.detach().cpu().contiguous().clone()
    metadata = {
        "architecture": canonical(architecture, "the architecture"),
        "taut": __version__,
    }
    try:
        data = save(tensors, metadata=metadata)
    except (KeyError, ValueError, SafetensorError) as error:
        raise ModelError(f"safetensors cannot hold these weights: {error}") from error
    write_atomic(path, _in_fixed_order(data))


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy the weights in the file at ``path`` into ``model``, which keeps its device.

    The file must hold exactly the names and shapes of ``model.state_dict()``,
    in types that convert to the model's without rounding; the model is left
    as it was otherwise.

    Raises
    ------
    ModelError
        When the file is missing, damaged or of another kind, or names the
        first tensor that is missing, unexpected, or of another shape or type.

    """
    tensors = read_weights(path)
    expected: dict[str, object] = dict(model.state_dict())
    for name in expected:
        if name not in tensors:
            raise ModelError(f"{path} has no tensor {name!r}: {_ANOTHER}")
    for name, tensor in tensors.items():
        wanted = expected.get(name)
        if not isinstance(wanted, Tensor):
            raise ModelError(f"{path} has the unexpected tensor {name!r}: {_ANOTHER}")
        if tensor.shape != wanted.shape:
            raise ModelError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, the model's has "
                f"{tuple(wanted.shape)}: {_ANOTHER}"
            )
        if not _converts_exactly(tensor.dtype, wanted.dtype):
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} and does not fit the model's "
                f"{wanted.dtype} exactly; convert the model first (model.double() for float64)"
            )
    model.load_state_dict(tensors, strict=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch weights file, on the CPU, sorted by name.

    Raises
    ------
    ModelError
        When the file is missing, truncated, or holds something else.

    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}; check the path")
    tensors = _read_pytorch(path) if path.suffix in _PYTORCH else _read_safetensors(path)
    return {name: tensors[name] for name in sorted(tensors)}


def read_architecture(path: Path) -> Mapping[str, Any]:
    """Return the architecture a weights file names, read-only (lists as tuples).

    Raises
    ------
    ModelError
        When the file is missing or damaged, or carries no architecture.

    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}; check the path")
    if path.suffix in _PYTORCH:
        raise ModelError(f"{path} is a PyTorch file and names no architecture; name the model")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if "architecture" not in metadata:
        raise ModelError(f"{path} names no architecture; name the model")
    try:
        architecture = parse_object(metadata["architecture"].encode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    check_architecture(architecture, f"the architecture in {path}")
    frozen: Mapping[str, Any] = freeze(architecture)
    return frozen


def check_architecture(architecture: Mapping[str, Any], where: str) -> None:
    """Check the keys and values this module's page names; ``ModelError`` says which is wrong."""
    name, shape = architecture.get("name"), architecture.get("input_shape")
    if not isinstance(name, str) or not name:
        raise ModelError(f'{where} needs "name", a string; it has {name!r}')
    if not isinstance(shape, list | tuple) or not shape or not all(map(_is_size, shape)):
        raise ModelError(f'{where} needs "input_shape", positive integers; it has {shape!r}')
    if not _is_size(architecture.get("classes")):
        raise ModelError(
            f'{where} needs "classes", a positive integer; it has {architecture.get("classes")!r}'
        )
    mean, std = architecture.get("mean"), architecture.get("std")
    if mean is None and std is None:
        return
    for key, values in (("mean", mean), ("std", std)):
        if not isinstance(values, list | tuple) or len(values) not in (1, shape[0]):
            raise ModelError(
                f'{where}: "{key}" must list one number, or {shape[0]}, not {values!r}'
            )
        if not all(map(_is_finite, values)) or (key == "std" and min(values) <= 0):
            raise ModelError(f'{where}: "{key}" holds {values!r}; numbers must be finite, std > 0')


def _converts_exactly(held: torch.dtype, wanted: torch.dtype) -> bool:
    same_kind = held.is_floating_point == wanted.is_floating_point
    return same_kind and torch.promote_types(held, wanted) == wanted


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _in_fixed_order(data: bytes) -> bytes:
    """Return the file with its metadata sorted; the library's order changes from call to call."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} is no safetensors file or is truncated ({error}); "
        "copy or train it again, or give a PyTorch file the ending .pt"
    )


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no PyTorch file, or holds more than tensors; "
            "save it with torch.save(model.state_dict(), path)"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # torch's reader fails in many ways on damaged bytes
        raise ModelError(f"{path} is damaged or truncated; copy or train it again") from error
    for keys in ((), *_NESTED):
        found = content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if _is_state_dict(found):
            return dict(found)
    raise ModelError(
        f"{path} holds no state dict; save it with torch.save(model.state_dict(), path)"
    )


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )
