"""Digests that say which weights were certified and whether a checkpoint is whole.

Every variable-length part is preceded by its length as 8 bytes, little-endian
(written ``n`` below), so that no two contents give one byte stream.

A tensor contributes ``n`` + its type's name (``float32``, ``int64``, ...),
the number of its dimensions and each of them (8 bytes each), ``n`` + its
elements in row-major order, little-endian.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from taut.errors import ModelError, RunError


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def hash_weights(state_dict: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a network's weights, 64 hexadecimal digits.

    The stream is ``n`` + the tensor's name in UTF-8, then the tensor as this
    module's page says, for every name in the order of its code points. Device,
    order of the mapping, memory layout and ``requires_grad`` do not matter; a
    name, type, shape or bit does.

    Raises
    ------
    ModelError
        When an entry is no dense tensor.

    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value: object = state_dict[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelError(
                f"entry {name!r} of the weights is no dense tensor; pass model.state_dict()"
            )
        _bytes(digest, name.encode())
        _tensor(digest, value)
    return digest.hexdigest()


def hash_state(value: object) -> str:
    """Return the SHA-256 of nested plain values and tensors (see :mod:`taut.store.checkpoint`).

    Each value contributes one letter and its content: ``N`` for ``None``, ``T``
    and ``F`` for booleans, ``I`` + ``n`` + decimal digits for an integer, ``D`` +
    the 8 bytes of a double, ``S`` + ``n`` + UTF-8 for a string, ``A`` + a tensor,
    ``L`` + count + items for a list, ``U`` the same for a tuple, ``M`` + count + key,
    value, key, ... for a mapping in its own order.
    """
    digest = hashlib.sha256()
    _value(digest, value)
    return digest.hexdigest()


def tensor_bytes(value: Tensor) -> bytes:
    """Return the elements of a dense tensor, row-major and little-endian."""
    if sys.byteorder != "little":
        raise RunError("run folders hold little-endian numbers; use a little-endian machine")
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _count(digest: _Hash, number: int) -> None:
    digest.update(struct.pack("<Q", number))


def _bytes(digest: _Hash, data: bytes) -> None:
    _count(digest, len(data))
    digest.update(data)


def _tensor(digest: _Hash, value: Tensor) -> None:
    _bytes(digest, str(value.dtype).removeprefix("torch.").encode())
    _count(digest, value.dim())
    for size in value.shape:
        _count(digest, size)
    _bytes(digest, tensor_bytes(value))


def _value(digest: _Hash, value: object) -> None:
    if value is None:
        digest.update(b"N")
    elif isinstance(value, bool):
        digest.update(b"T" if value else b"F")
    elif isinstance(value, int):
        digest.update(b"I")
        _bytes(digest, str(value).encode())
    elif isinstance(value, float):
        digest.update(b"D" + struct.pack("<d", value))
    elif isinstance(value, str):
        digest.update(b"S")
        _bytes(digest, value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, Tensor):
        digest.update(b"A")
        _tensor(digest, value)
    else:
        _container(digest, value)


def _container(digest: _Hash, value: object) -> None:
    if isinstance(value, list | tuple):
        digest.update(b"L" if isinstance(value, list) else b"U")
        _count(digest, len(value))
        for item in value:
            _value(digest, item)
    elif isinstance(value, dict):
        digest.update(b"M")
        _count(digest, len(value))
        for key, item in value.items():
            _value(digest, key)
            _value(digest, item)
    else:
        raise RunError(f"a checkpoint cannot hold a {type(value).__name__}")
