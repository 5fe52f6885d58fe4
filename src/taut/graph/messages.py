"""What a user reads when a model cannot be traced: the place, the operation, the way out."""

from __future__ import annotations

import difflib
import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

from taut.errors import ModelError, first_line
from taut.operators.registry import BUILDERS, describe

_FOREIGN = tuple(
    str(Path(place).resolve()) + "/"
    for place in (
        Path(torch.__file__).parent,
        Path(__file__).parent,
        sysconfig.get_path("stdlib"),
    )
)
_SITE = ("/site-packages/", "/dist-packages/")  # they lie inside the standard library's folder
_STAPLES = ("nn.Linear", "nn.Conv2d", "nn.ReLU")
_NEAREST = 10


def source_line(node: fx.Node) -> str:
    """Return `` (file:line: source)`` of the user's own line, where it was recorded."""
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(path, int(number)) for path, number in places if _is_users(path)]
    return f" ({_quoted(*own[-1])})" if own else ""


def place_of(*errors: BaseException) -> str:
    """Return `` at file:line: source``, the deepest line of the user's that an error passed."""
    for error in (each for start in errors for each in _chain(start)):
        frames = traceback.extract_tb(error.__traceback__)
        own = [(frame.filename, frame.lineno or 0) for frame in frames if _is_users(frame.filename)]
        if own:
            return f" at {_quoted(*own[-1])}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _is_users(path: str) -> bool:
    if path.startswith("<eval_with_key>") or (
        path.startswith("<") and not linecache.getlines(path)
    ):
        return False  # generated code, or code without a source
    place = str(Path(path).resolve())
    torchs, tauts, pythons = _FOREIGN
    if place.startswith((torchs, tauts)):
        return False
    return not place.startswith(pythons) or any(site in place for site in _SITE)


def _quoted(path: str, number: int) -> str:
    source = linecache.getline(path, number).strip()
    return f"{path}:{number}: {source}" if source else f"{path}:{number}"


def named(target: Any) -> str:
    """Return the name a user knows what a node calls by."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return describe(target)


def alternatives(target: Any) -> str:
    """Return the supported names nearest to one without a rule, and where all of them are."""
    known = sorted({describe(each) for each in BUILDERS})
    by_key: dict[str, list[str]] = {}
    for name in known:
        by_key.setdefault(_key(name), []).append(name)
    keys = difflib.get_close_matches(_key(named(target)), by_key, n=_NEAREST, cutoff=0.5)
    near = [by_key[key][-1] for key in keys]
    shown = [name for name in _STAPLES if name in known and name not in near]
    more = len(known) - len(shown) - len(near)
    nearest = f"; nearest by name: {', '.join(near)}" if near else ""
    return (
        f"supported: {', '.join(shown)} and {more} more{nearest} "
        f"(taut.operators.registry.supported() lists them all)"
    )


def _key(name: str) -> str:
    return name.rpartition(".")[2].replace("_", "").lower()


def untraceable(name: str, why: BaseException, exporting: BaseException) -> ModelError:
    """Return the error for a model that neither ``torch.fx`` nor ``torch.export`` can trace."""
    place = place_of(exporting, why)
    if _depends_on_values(exporting):
        return ModelError(
            f"{name} cannot be traced{place}: what is computed here depends on the values of a "
            f"tensor; use no branches, loops or Python numbers that come from tensor values"
        )
    return ModelError(
        f"{name} cannot be traced{place}: {first_line(exporting)}; write this line with tensor "
        f"operations of the image and the module's parameters"
    )


def _depends_on_values(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("datadependent", "data-dependent", ".numpy() is not"))
