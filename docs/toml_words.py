"""Types and values of dataclass fields, in the words of TOML."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from cells import code

from taut.training import Bound, Combination, Region
from taut.training.choose import AXES

_MEMBERS = {cls: name for members in AXES.values() for name, cls in members.items()}


def kind(hint: Any) -> str:
    """Return what a field takes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(code(f'"{choice}"') for choice in arguments)
    if origin is tuple:
        inner = {"str": "strings", "float": "numbers", "int": "whole numbers"}
        return f"list of {inner[arguments[0].__name__]}"
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(kind(one) for one in arguments if one is not type(None))
    if hint in (Region, Bound, Combination):
        return "name or table"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "table"
    return {int: "whole number", float: "number", str: "string", bool: "true or false"}[hint]


def default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default, or ``required``."""
    if field.default_factory is not dataclasses.MISSING:
        return toml(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else toml(field.default)


def toml(value: Any) -> str:
    """Return a value in code marks; of a table, what differs from the defaults of its kind."""
    return code(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _table(value)
    if isinstance(value, Mapping):
        return "{}" if not value else str(dict(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(value: Any) -> str:
    """Return a dataclass as a table on one line, a member of an axis by its name."""
    shown = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != _usual(field)
    }
    if type(value) in _MEMBERS:
        name = _MEMBERS[type(value)]
        if not shown:
            return f'"{name}"'
        shown = {"name": name, **shown}
    if not shown:
        return "{}"
    return "{ " + ", ".join(f"{k} = {_plain(v)}" for k, v in shown.items()) + " }"


def _usual(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()
