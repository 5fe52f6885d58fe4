"""From tables of plain values to validated dataclasses, with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from taut.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def build(cls: type[T], table: Any, where: str) -> T:
    """Return the dataclass ``cls`` built from ``table``, strictly.

    Types are not converted (only whole numbers stand for real ones, and lists for tuples).

    Parameters
    ----------
    cls
        A dataclass; its own checks run too.
    table
        Its fields by name.
    where
        Name of the table in messages, for example ``train``.

    Raises
    ------
    ConfigError
        For an unknown or missing key, a value of the wrong type, or one out of range.

    """
    from pydantic import ValidationError  # slow to import; only recipes need it

    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table of keys and values; got {describe(table)}")
    made: Any = cls
    fields = [field for field in dataclasses.fields(made) if field.init]
    names = [field.name for field in fields]
    for key in table:
        if key not in names:
            raise unknown("key", f"{where}.{key}", str(key), names, f"{where} has")
    for field in fields:
        bare = field.default is dataclasses.MISSING
        if bare and field.default_factory is dataclasses.MISSING and field.name not in table:
            raise ConfigError(f"{where}.{field.name} is missing; give it a value")
    hints, values = _hints(made), {}
    for key, value in table.items():
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            values[key] = build(hints[key], value, f"{where}.{key}")
            continue
        try:
            values[key] = _reader(made, key).validate_python(_tuples(value), strict=True)
        except ValidationError as error:
            raise _translate(error, f"{where}.{key}") from None
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    return typing.get_type_hints(cls)


@functools.cache
def _reader(cls: type, key: str) -> TypeAdapter[Any]:
    """Return what checks the values of one field; making it takes longer than using it."""
    from pydantic import TypeAdapter

    return TypeAdapter(_hints(cls)[key])


def unknown(
    kind: str,
    shown: str,
    given: str,
    known: Iterable[str],
    has: str = "known:",
    listed: Iterable[str] | None = None,
) -> ConfigError:
    """Return the error for a name that does not exist, with the nearest one that does.

    It lists all known names, or those of ``listed`` where there are too many.
    """
    names = list(known)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    text = ", ".join(names if listed is None else listed) or "nothing"
    return ConfigError(f"unknown {kind} {shown!r}{hint} ({has} {text})")


def describe(value: Any) -> str:
    """Return a value and its type, short enough for one line."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _tuples(value: Any) -> Any:
    """Turn lists, which is all that TOML has, into tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "int_from_float": "a whole number",
}
"""What pydantic's error types ask for, in the words of TOML."""


def _translate(error: Any, key: str) -> ConfigError:
    """Return the first of pydantic's findings as one line."""
    first = error.errors(include_url=False)[0]
    key = ".".join([key, *(str(part) for part in first["loc"])])
    kind, got = first["type"], describe(first["input"])
    if kind == "literal_error":
        expected = "one of " + first["ctx"]["expected"].replace(" or ", ", ")
    else:
        expected = EXPECTED.get(kind, first["msg"].removeprefix("Input should be "))
    return ConfigError(f"{key} must be {expected}; got {got}")
