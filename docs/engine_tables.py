"""The tables of the bounding engine: named points of the grid, operators."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import torch
from cells import code, table

from taut.bounds import METHODS
from taut.operators import OPERATORS, Affine, Entry
from taut.operators.registry import BUILDERS, describe


def points() -> str:
    """Return the bounding methods as the objects that `taut.bounds` makes them of."""
    rows = []
    for name, method in METHODS.items():
        fields = [f for f in dataclasses.fields(typing.cast(Any, method)) if f.init]
        given = [
            f"{f.name}={getattr(method, f.name)!r}"
            for f in fields
            if f.default is not getattr(method, f.name)
        ]
        rest = ", ".join(code(f.name) for f in fields if f.default is getattr(method, f.name))
        rows.append((code(name), code(f"{type(method).__name__}({', '.join(given)})"), rest or "-"))
    return table(("name", "object", "further fields"), rows)


def operators() -> str:
    """Return the operators, and what a traced model may hold."""
    rows = [(_kind(entry), code(entry.name), entry.summary) for entry in OPERATORS.values()]
    parts = [table(("kind", "operator", "what it computes"), sorted(rows))]
    found: dict[str, set[str]] = {"Modules": set(), "Functions": set(), "Methods of tensors": set()}
    for target in BUILDERS:
        if isinstance(target, type):
            if target.__module__.startswith("taut.formats."):
                continue  # layers of files that were read; nobody writes them
            known = target.__module__.startswith("torch.")
            found["Modules"].add(describe(target) if known else f"taut.models.{target.__name__}")
        else:
            kind = "Methods of tensors" if isinstance(target, str) else "Functions"
            found[kind].add(describe(target).removeprefix("Tensor."))
    for kind, names in found.items():
        parts.append(f"{kind}: {', '.join(code(name) for name in sorted(names))}.")
    return "\n\n".join(parts)


def _kind(entry: Entry) -> str:
    """Return whether linear forms pass an operator exactly."""
    (kind,) = {isinstance(c.operator, Affine) for c in entry.cases(torch.Generator())}
    return "affine" if kind else "bends"
