"""Plain values: what config, metrics and summaries may hold, and how JSON carries it.

Allowed are ``None``, booleans, integers, floats (numpy's scalars too), strings,
lists or tuples of such values, and mappings from strings to them.

JSON has no NaN and no infinity. They are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"`` and read back as floats; a genuine string
with one of these three spellings is refused, so that the round trip is exact.
Finite floats are written with the shortest digits that give the same double.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taut.errors import RunError

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: object, where: str) -> Any:
    """Return ``value`` as JSON can carry it; ``where`` names it in an error.

    Raises
    ------
    RunError
        When a value is none of the plain kinds, naming its place.

    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in _NOT_FINITE:
            raise RunError(f"{where} is the string {value!r}; pass the float instead")
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _float_to_json(float(value))
    if isinstance(value, Mapping):
        return _mapping_to_json(value, where)
    if isinstance(value, list | tuple):
        return [to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise RunError(
        f"{where} is a {type(value).__name__}; pass numbers, strings, lists and mappings "
        "(tensor.item() for a tensor of one element, str() for a path)"
    )


def _float_to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _mapping_to_json(value: Mapping[Any, object], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise RunError(f"{where} has the key {key!r}; keys must be strings")
        result[str(key)] = to_json(item, f"{where}.{key}")
    return result


def from_json(value: Any) -> Any:
    """Return what :func:`to_json` was given (tuples as lists, NaN and infinities as floats)."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return value


def freeze(value: Any) -> Any:
    """Return a deeply read-only copy: mappings as ``MappingProxyType``, lists as tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def canonical(value: object, where: str) -> str:
    """Return one JSON text per value: keys sorted, no spaces, ASCII only."""
    return json.dumps(to_json(value, where), sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_line(value: object, where: str) -> bytes:
    """Return JSON on one line of ASCII with its newline, the order of the mapping kept."""
    text = json.dumps(to_json(value, where), separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def pretty(value: object, where: str) -> bytes:
    """Return JSON for people: two spaces of indentation, the order of the mapping kept."""
    return (json.dumps(to_json(value, where), indent=2, allow_nan=False) + "\n").encode()


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the mapping that ``data`` holds as JSON; ``ValueError`` for anything else."""
    value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    result: dict[str, Any] = from_json(value)
    return result


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the mapping in the JSON file at ``path``.

    Raises
    ------
    RunError
        When the file cannot be read or holds something else; ends with ``advice``.

    """
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); {advice}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
