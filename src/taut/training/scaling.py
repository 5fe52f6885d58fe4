"""Shorter and longer recipes: what counts epochs is scaled, in whatever table it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")

EPOCHS = {"unit": "epochs"}
"""Metadata of fields that count epochs, which :meth:`taut.training.Recipe.scaled` scales."""


def counts_epochs(field: dataclasses.Field[Any]) -> bool:
    """Tell whether a field's metadata says that it counts epochs."""
    return field.metadata.get("unit") == EPOCHS["unit"]


def scaled(value: T, factor: float) -> T:
    """Return a frozen dataclass with every field that counts epochs scaled, nested ones too.

    Whole numbers are rounded and stay at least 1; fractions and lists of them are not rounded.
    Where a convention counts from 1, ``epoch_origins`` says from which value lengths are measured.
    """
    anything = cast(Any, value)
    origins = anything.epoch_origins() if hasattr(anything, "epoch_origins") else {}
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(anything):
        old = getattr(anything, field.name)
        if counts_epochs(field):
            changes[field.name] = _number(old, factor, origins.get(field.name, 0))
        elif dataclasses.is_dataclass(old) and not isinstance(old, type):
            changes[field.name] = scaled(old, factor)
    return cast(T, dataclasses.replace(anything, **changes)) if changes else value


def _number(old: Any, factor: float, origin: int) -> Any:
    if isinstance(old, tuple | list):
        return type(old)(_number(item, factor, origin) for item in old)
    if old <= origin:
        return old
    length = (old - origin) * factor
    return origin + (max(1, math.floor(length + 0.5)) if isinstance(old, int) else length)


def changed_fields(old: Any, new: Any) -> dict[str, Any]:
    """Return the fields in which two equal trees of dataclasses differ, as nested tables."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(old):
        a, b = getattr(old, field.name), getattr(new, field.name)
        if a == b:
            continue
        nested = dataclasses.is_dataclass(a) and not isinstance(a, type)
        found[field.name] = changed_fields(a, b) if nested else b
    return found


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with changes put into it, tables into tables."""
    found = dict(table)
    for key, value in changes.items():
        old = found.get(key)
        if isinstance(value, Mapping) and isinstance(old, str):
            old = {"name": old}
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found
