"""``checkpoint.pt``: everything a killed training run needs to go on as if nothing happened.

Format
------
A PyTorch file that ``torch.load(path, weights_only=True)`` reads (no code in it
is run). It holds one mapping::

    {"format": 1,                      # version of this layout
     "digest": "<64 hex digits>",      # taut.store.hashing.hash_state(content)
     "content": {
         "metrics_rows": n,            # rows of metrics.jsonl when it was written
         "state": {"epoch": e, ...}}}  # what the training loop saved

``state`` holds ``epoch`` (an integer, the number of finished epochs) and
whatever else the loop needs: ``weights`` (the state dict), the optimiser's
state dict, schedule counters, generator states as byte tensors. Its values are
``None``, booleans, integers, floats, strings, dense tensors (stored on the CPU),
lists, tuples, and mappings with string or integer keys; raw bytes go in as uint8
tensors (``weights_only`` reads no ``bytes``).

The file is replaced at once (:func:`taut.store.atomic.write_atomic`): the
previous checkpoint stays until the new one is whole and on the disk. PyTorch
checks nothing when it reads; the digest over every value and every bit of every
tensor makes damage an error instead of a wrong continuation.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taut.errors import RunError
from taut.store.atomic import write_atomic
from taut.store.hashing import hash_state

CHECKPOINT_FORMAT = 1
_ADVICE = "restore it from a copy, or train again with another --out"


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    state: dict[str, Any]
    """The training loop's mapping, tensors on the CPU."""
    metrics_rows: int
    """Rows of ``metrics.jsonl`` when it was written."""


def write_checkpoint(path: Path, state: Mapping[str, object], metrics_rows: int) -> None:
    """Replace the checkpoint at ``path``.

    Raises
    ------
    RunError
        When ``state`` has no ``epoch``, a value cannot be stored (naming its
        place), or the file cannot be written.

    """
    _check_epoch(state.get("epoch"), "the checkpoint's state")
    content = {"metrics_rows": metrics_rows, "state": _storable(state, "state")}
    whole = {"format": CHECKPOINT_FORMAT, "digest": hash_state(content), "content": content}
    # To memory first: torch turns a full disk into a RuntimeError that says nothing of it.
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    write_atomic(path, buffer.getbuffer())


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint at ``path``, or ``None`` when there is none yet.

    Raises
    ------
    RunError
        When the file is damaged in any bit, or of a newer layout.

    """
    if not path.exists():
        return None
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        found = whole["format"]
        if isinstance(found, int) and found > CHECKPOINT_FORMAT:
            raise RunError(
                f"{path} has layout {found} and this taut reads up to {CHECKPOINT_FORMAT}; "
                "upgrade taut"
            )
        content = whole["content"]
        if hash_state(content) != whole["digest"]:
            raise ValueError("its digest differs")
        _check_epoch(content["state"]["epoch"], str(path))
        return Checkpoint(content["state"], content["metrics_rows"])
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; {_ADVICE}") from error
    except (RunError, MemoryError):
        raise
    except Exception as error:  # torch's reader fails in many ways on damaged bytes
        reason = "not a checkpoint" if isinstance(error, pickle.UnpicklingError) else error
        raise RunError(f"{path} is damaged ({_first_line(reason)}); {_ADVICE}") from error


def _first_line(reason: object) -> str:
    lines = str(reason).splitlines()
    return lines[0] if lines else type(reason).__name__


def _check_epoch(epoch: object, where: str) -> None:
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise RunError(
            f'{where} needs "epoch", the number of finished epochs as an integer; it has {epoch!r}'
        )


def _storable(value: object, where: str) -> Any:
    """Return ``value`` in the types ``weights_only`` allows and the digest covers."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):  # numpy's and enums' subclasses would bring code along
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Tensor):
        return _stored_tensor(value, where)
    if isinstance(value, list):
        return [_storable(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(_storable(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, Mapping):
        return _stored_mapping(value, where)
    raise RunError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold; "
        "turn it into tensors (uint8 for bytes), numbers or strings"
    )


def _stored_tensor(value: Tensor, where: str) -> Tensor:
    if value.layout != torch.strided or value.is_quantized:
        raise RunError(f"{where} is no dense tensor; store value.to_dense()")
    # A clone, so that a view does not bring its whole base along.
    return value.detach().cpu().contiguous().clone()


def _stored_mapping(value: Mapping[Any, object], where: str) -> dict[str | int, Any]:
    result: dict[str | int, Any] = {}
    for key, item in value.items():
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise RunError(f"{where} has the key {key!r}; keys must be strings or integers")
        plain = str(key) if isinstance(key, str) else int(key)
        result[plain] = _storable(item, f"{where}.{key}")
    return result
