"""The command lines that make a run and its certification again."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taut.api.loading import CUSTOM
from taut.data import DATASETS

if TYPE_CHECKING:
    from taut.store import RunFolder


def commands(training: RunFolder | None, result: RunFolder | None) -> list[str]:
    """Return the commands, as far as a run's configuration tells them."""
    found = []
    if training is not None:
        made = _train(training)
        if made is None:
            return []
        found.append(made)
        if result is not None and result.kind == "certify":
            found.append(_certify(training, result))
        found.append(f"taut report {shlex.quote(str(training.path))}")
    return found


def _train(run: RunFolder) -> str | None:
    """Return the command for the recipe it is nearest to, with the values that differ."""
    held = _flat(run.recipe)
    if any(str(value).startswith(CUSTOM) for value in held.values()):
        return None
    best: tuple[int, str, dict[str, Any]] | None = None
    for name, known in _shipped().items():
        changed = {key: value for key, value in held.items() if known.get(key, ...) != value}
        lost = [key for key in known if key not in held]
        if not lost and (best is None or len(changed) < best[0]):
            best = (len(changed), name, changed)
    if best is None:
        return None
    sets = "".join(f" --set {shlex.quote(f'{key}={_toml(v)}')}" for key, v in best[2].items())
    return f"taut train {best[1]}{sets} --out {shlex.quote(str(run.path))}"


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    """Return the values of every recipe that comes with taut."""
    from taut.training import load, names

    return {name: _flat(load(name).to_dict()) for name in names()}


def _certify(training: RunFolder, result: RunFolder) -> str:
    """Return the command with the options that differ from the run's recipe."""
    recipe, what = training.recipe, result.recipe
    usual, cascade = recipe["certify"], what["cascade"]
    words = ["taut", "certify", str(training.path)]
    if what["data"] != recipe["data"]["name"]:
        words += ["--data", what["data"]]
    if what["split"] != "test":
        words += ["--split", what["split"]]
    if what["eps"] != usual["eps"]:
        words += ["--eps", repr(what["eps"])]
    if (result.path / "summary.json").is_file():
        count = result.read_summary()["images"]
        known = DATASETS.get(what["data"])
        if known is not None and count != known.splits[what["split"]].size:
            words += ["--first", str(count)]
    stages = [stage for stage in cascade["stages"] if stage != "clean"]
    if stages != [stage for stage in usual["stages"] if stage != "clean"]:
        words += ["--stages", ",".join(stages)]
    for key in ("steps", "restarts"):
        if cascade["attack"][key] != usual[key]:
            words += [f"--{key}", str(cascade["attack"][key])]
    if cascade["timeout"] is not None:
        words += ["--timeout", str(cascade["timeout"])]
    if result.seed:
        words += ["--seed", str(result.seed)]
    return shlex.join(words)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _toml(value: Any) -> str:
    """Return a value as ``--set`` reads it; JSON and TOML agree on what recipes hold."""
    return value if isinstance(value, str) else json.dumps(value)
