"""``config.json``: which run a folder holds; written once, never changed.

Format
------
One JSON object (UTF-8, values as in :mod:`taut.store.values`)::

    {"format": 1,                   # version of the run folder's layout
     "kind": "train",               # the command's word for what this is
     "recipe": {...},               # the run's whole configuration, defaults included
     "seed": 0,
     "versions": {"taut": ..., "torch": ..., "python": ..., "numpy": ...,
                  "platform": ..., ...},  # and main dependencies; null: not installed
     "created": "2025-01-31T12:00:00+00:00"}   # ISO 8601, UTC
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from taut._version import __version__
from taut.errors import RunError
from taut.store.atomic import write_atomic
from taut.store.values import canonical, freeze, from_json, pretty, read_object, to_json

RUN_FORMAT = 1
_DEPENDENCIES = (
    "torch",
    "numpy",
    "lightning-fabric",
    "pydantic",
    "safetensors",
    "tensorboardx",
)
_FIELDS: dict[str, type] = {
    "format": int,
    "kind": str,
    "recipe": dict,
    "seed": int,
    "versions": dict,
    "created": str,
}


def versions() -> dict[str, str | None]:
    """Return the versions of taut, Python, the platform and the main dependencies."""
    import torch

    found: dict[str, str | None] = {"taut": __version__, "python": platform.python_version()}
    for name in _DEPENDENCIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = str(torch.__version__)  # with its build, which the metadata may lack
    found["platform"] = platform.platform()
    return found


def make_config(kind: str, recipe: Mapping[str, object], seed: int) -> Mapping[str, Any]:
    """Return the frozen configuration of a new run, as reading it back would give it."""
    if not kind:
        raise RunError("a run needs a kind, such as train")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise RunError(f"a run's seed is an integer, not {seed!r}")
    config = {
        "format": RUN_FORMAT,
        "kind": kind,
        "recipe": recipe,
        "seed": seed,
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    frozen: Mapping[str, Any] = freeze(from_json(to_json(config, "the configuration")))
    return frozen


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration of :func:`make_config` to ``path``."""
    write_atomic(path, pretty(config, "the configuration"))


def read_config(path: Path) -> Mapping[str, Any]:
    """Return the frozen configuration at ``path`` (mappings read-only, lists as tuples).

    Raises
    ------
    RunError
        When the file is missing, damaged, or of a newer layout.

    """
    if not path.is_file():
        raise RunError(f"{path.parent} is no run folder: it has no {path.name}; check the path")
    advice = "restore it from a copy, or choose another --out"
    config = read_object(path, advice)
    layout = config.get("format")
    if isinstance(layout, int) and layout > RUN_FORMAT:
        raise RunError(
            f"{path} has layout {layout} and this taut reads up to {RUN_FORMAT}; upgrade taut"
        )
    for key, kind in _FIELDS.items():
        value = config.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RunError(f'{path} is damaged ("{key}" is {value!r}); {advice}')
    frozen: Mapping[str, Any] = freeze(config)
    return frozen


def difference(held: object, wanted: object, where: str) -> str | None:
    """Return the first place where two frozen values differ, in words, or ``None``."""
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        for key in [*held, *(key for key in wanted if key not in held)]:
            if key not in held or key not in wanted:
                return f"{where}.{key} is {'not there' if key not in held else 'only there'}"
            found = difference(held[key], wanted[key], f"{where}.{key}")
            if found is not None:
                return found
        return None
    # As texts: NaN equals itself; 1, 1.0 and true do not equal one another.
    if canonical(held, where) == canonical(wanted, where):
        return None
    return f"{where} is {held!r} there and {wanted!r} here"
