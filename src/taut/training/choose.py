"""From a recipe's ``[method]`` table to a method: a name, and fields that differ from it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from taut.errors import ConfigError
from taut.training.bound import BOUNDS, Bound
from taut.training.combination import COMBINATIONS, Combination
from taut.training.methods import METHODS, GridPoint, Method
from taut.training.region import REGIONS, Region
from taut.training.sections import build, describe, unknown

AXES: Mapping[str, Mapping[str, type]] = {
    "region": REGIONS,
    "bound": BOUNDS,
    "combination": COMBINATIONS,
}
"""The members of each axis by the name a recipe calls them."""

_KINDS: Mapping[Any, str] = {Region: "region", Bound: "bound", Combination: "combination"}


def choose(name: str, overrides: Mapping[str, Any]) -> Method:
    """Return the method called ``name`` with some of its fields changed.

    A key of ``overrides`` is either a field of one of the method's axes (``kappa_end``), or an
    axis itself (``region``, ``bound``, ``combination``), whose value is the name of a member or
    a table ``{name = "...", field = ...}`` and replaces the axis as a whole.

    Raises
    ------
    ConfigError
        For an unknown method, member or field, or a value that does not fit.

    """
    if name not in METHODS:
        raise unknown("method", name, name, METHODS)
    method = METHODS[name].method
    if not isinstance(method, GridPoint):
        return typing.cast(Method, _changed(method, overrides))
    axes: dict[str, Any] = {axis: getattr(method, axis) for axis in AXES}
    plain = dict(overrides)
    own = {key: plain.pop(key) for key in ("statistics",) if key in plain}
    for axis in AXES:
        if axis in plain:
            axes[axis] = member(axis, plain.pop(axis), f"method.{axis}")
    owners: dict[str, str] = {}
    for axis, value in axes.items():
        for field in dataclasses.fields(value):
            # a field two axes have can only be set through its axis
            owners[field.name] = "" if field.name in owners else axis
    known = [field for field, axis in owners.items() if axis]
    changes: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
    for key, value in plain.items():
        if not owners.get(key):
            has = f"method {name!r} has"
            raise unknown("key", f"method.{key}", key, [*known, *AXES, "statistics"], has)
        changes[owners[key]][key] = value
    changed = {axis: _changed(axes[axis], changes[axis]) for axis in AXES}
    grid_point = dataclasses.replace(method, **changed)
    return typing.cast(Method, _changed(grid_point, own)) if own else grid_point


def member(axis: str, given: Any, where: str) -> Any:
    """Return the member of an axis from its name or its table."""
    table = {"name": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise ConfigError(
            f'{where} must be the name of a {axis} or a table {{name = "..."}}; '
            f"got {describe(given)}"
        )
    members = AXES[axis]
    if table["name"] not in members:
        raise unknown(axis, table["name"], table["name"], members)
    fields = {key: value for key, value in table.items() if key != "name"}
    return _changed(members[table["name"]](), fields, where)


def _changed(value: Any, changes: Mapping[str, Any], where: str = "method") -> Any:
    """Return a frozen dataclass with some fields replaced, checked like new ones."""
    if not changes:
        return value
    old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    new = dict(changes)
    for key, given in changes.items():
        part = dataclasses.is_dataclass(old.get(key)) and isinstance(given, Mapping)
        if part and "name" not in given:  # else another member of an axis, in place of this one
            new[key] = _changed(old[key], given, f"{where}.{key}")
    return _made(type(value), old | new, where)


def _made(cls: type, fields: Mapping[str, Any], where: str) -> Any:
    """Build an axis; a field that is itself an axis member is built from its own table."""
    hints = typing.get_type_hints(cls)
    members, plain = {}, {}
    for key, value in fields.items():
        axis = _KINDS.get(hints.get(key))
        if axis is None:
            plain[key] = value
        else:
            given = value if not isinstance(value, str | Mapping) else None
            members[key] = given or member(axis, value, f"{where}.{key}")
    made: Any = build(cls, plain, where)
    return dataclasses.replace(made, **members) if members else made
