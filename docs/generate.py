"""Write the tables of the documentation from the registries and dataclasses they describe.

    python docs/generate.py           rewrite what has changed
    python docs/generate.py --check   only say what is out of date (exit status 1)

A page marks each table with ``<!-- generated: NAME -->`` and ``<!-- end -->``; what
stands between is replaced. ``tests/docs`` fails when a page is out of date.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import command_tree
import engine_tables
from cells import code, table
from toml_words import default, kind, toml

from taut import training
from taut.attacks import ATTACKS
from taut.bounds import METHODS as BOUNDING
from taut.data import AUGMENTATIONS, DATASETS, Augment
from taut.models import MODELS, size
from taut.training.choose import AXES
from taut.training.recipe import SECTIONS

DOCS = Path(__file__).parent
_MARKED = re.compile(
    r"(?P<open><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<close><!-- end -->)", re.DOTALL
)
_HEADING = re.compile(r"^-{3,}$")

UNITS: dict[str, str] = {
    "train.epochs": "epochs",
    "train.eps": "pixels of [0, 1]",
    "train.batch_size": "images",
    "train.lr": "per step",
    "train.weight_decay": "per step",
    "train.momentum": "share",
    "train.grad_clip": "l_2 norm",
    "train.devices": "processes",
    "train.threads": "threads",
    "train.average_from": "epochs",
    "train.validate_every": "epochs",
    "train.validation_attack_images": "images",
    "schedule.start": "epochs",
    "schedule.length": "epochs",
    "schedule.mid": "share",
    "schedule.power": "exponent",
    "lr.milestones": "epochs",
    "lr.factor": "share",
    "lr.every": "epochs",
    "lr.warmup": "epochs",
    "regularise.l1": "weight",
    "regularise.shi": "weight",
    "regularise.tolerance": "share",
    "activation.eta": "slope",
    "activation.eta_end": "slope",
    "activation.eta_start": "epochs",
    "activation.eta_length": "epochs",
    "activation.noise": "share of the mean",
    "certify.eps": "pixels of [0, 1]",
    "certify.steps": "steps",
    "certify.restarts": "runs per image",
    "method.kappa_start": "share",
    "method.kappa_end": "share",
    "method.beta_start": "share",
    "method.beta_end": "share",
    "method.steps": "steps",
    "method.step": "half widths of the box",
    "method.count": "radii",
    "method.ratio": "share",
    "method.relu_shrinkage": "share",
    "method.alpha": "share",
    "method.split": "activations",
    "method.threshold_start": "epochs",
    "method.threshold_length": "epochs",
}
"""Units of the keys that have one; the others are names, switches or seeds."""

_SYMBOLS = {r"\varepsilon": "eps"} | {
    f"\\{name}": name for name in ("kappa", "beta", "rho", "lambda", "tau", "eta")
}
_ELSEWHERE = {  # what a docstring refers to and a page has in another place
    "; see `ends`": "; see below",
    ", see `Attack`": "",
    ", see `IBP`": " only",
    "One of the five above.": "See below.",
}


def plain(text: str) -> str:
    """Turn a docstring's reStructuredText into Markdown on one line."""
    text = re.sub(r":math:`([^`]*)`", r"`\1`", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?([\w.]+)`", r"`\1`", text)
    text = " ".join(text.replace("``", "`").split())
    for old, new in (_SYMBOLS | _ELSEWHERE).items():
        text = text.replace(old, new)
    return text


def parameters(cls: type) -> dict[str, str]:
    """Return the descriptions of a dataclass's fields from its numpydoc docstring.

    Looked for in the class and its bases, under ``Parameters`` or ``Attributes``.
    """
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        inherited, lines = dict(found), _docstring(owner).splitlines()
        inside, names = False, []
        for number, line in enumerate(lines):
            following = lines[number + 1] if number + 1 < len(lines) else ""
            if _HEADING.match(following):
                inside, names = line in ("Parameters", "Attributes"), []
            elif not inside or _HEADING.match(line):
                continue
            elif line and not line.startswith(" "):
                names = [name.strip() for name in line.split(":")[0].split(",")]
                found.update(dict.fromkeys(names, ""))
            elif line.strip():
                for name in names:
                    found[name] = f"{found[name]} {line.strip()}".strip()
        found |= {n: text for n, text in inherited.items() if found[n].startswith("See :class:")}
    return {name: plain(text) for name, text in found.items()}


def _docstring(cls: type) -> str:
    text = cls.__dict__.get("__doc__") or ""
    first, _, rest = text.partition("\n")
    lines = rest.splitlines()
    indent = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    return "\n".join([first, *(line[indent:] for line in lines)])


def merged(rows: Iterable[Sequence[str]], *columns: int) -> list[list[str]]:
    """Join rows that differ in nothing but these columns; their cells are listed."""
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        rest = tuple(cell for place, cell in enumerate(row) if place not in columns)
        found.setdefault(rest, []).append(list(row))
    joined = []
    for group in found.values():
        cells = list(group[0])
        for place in columns:
            distinct = list(dict.fromkeys(row[place] for row in group))
            cells[place] = ", ".join(distinct)
        joined.append(cells)
    return joined


def keys(name: str, cls: type) -> str:
    """Return the table of a recipe's section: key, kind, unit, default, meaning."""
    hints, said = typing.get_type_hints(cls), parameters(cls)
    rows = []
    for field in dataclasses.fields(cls):
        unit = UNITS.get(f"{name}.{field.name}", "-")
        rows.append(
            (code(field.name), kind(hints[field.name]), unit, default(field), said[field.name])
        )
    return table(("key", "takes", "unit", "default", "meaning"), merged(rows, 0, 3))


def method_keys() -> str:
    """Return the fields of every training method that a recipe can set."""
    rows = []
    for entry in training.METHODS.values():
        method = entry.method
        axes: list[tuple[str, Any]] = [("-", method)]
        if isinstance(method, training.GridPoint):
            axes = [(axis, getattr(method, axis)) for axis in AXES]
        for axis, value in axes:
            for key, takes, unit, meaning, now in _fields(value):
                rows.append((code(entry.name), key, axis, takes, unit, now, meaning))
    columns = ("method", "key", "axis", "takes", "unit", "default", "meaning")
    return table(columns, merged(merged(rows, 0), 1, 5))


def _fields(value: Any) -> Iterable[tuple[str, str, str, str, str]]:
    """Yield key, kind, unit, meaning and value of the fields of a part of a method."""
    said, hints = parameters(type(value)), typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        unit = UNITS.get(f"method.{field.name}", "-")
        now = toml(getattr(value, field.name))
        yield code(field.name), kind(hints[field.name]), unit, said[field.name], now


def attack_keys() -> str:
    """Return the fields of an attack inside a training method."""
    rows = (
        (key, takes, unit, now, meaning)
        for key, takes, unit, meaning, now in _fields(training.TrainingAttack())
    )
    return table(("key", "takes", "unit", "default", "meaning"), rows)


def training_methods() -> str:
    """Return the table of training methods."""
    return table(
        ("name", "what it is", "axes", "loss of one batch", "passes a step", "source"),
        (
            (code(m.name), m.title, m.axes, code(m.formula), m.cost, m.paper or "-")
            for m in training.METHODS.values()
        ),
    )


def bounding_methods() -> str:
    """Return the table of bounding methods."""
    return table(
        ("name", "what it is", "recurrence", "cost", "memory", "source"),
        (
            (code(i.name), i.title, code(i.formula), i.cost, i.memory, i.paper)
            for i in (method.info for method in BOUNDING.values())
        ),
    )


def axes() -> str:
    """Return the members of the training grid's axes, with their fields and defaults."""
    rows = []
    for axis, members in AXES.items():
        for name, cls in members.items():
            fields = dataclasses.fields(typing.cast(Any, cls))
            shown = ", ".join(f"{f.name} = {default(f).strip('`')}" for f in fields)
            summary = plain(_docstring(cls).split("\n\n")[0]).rstrip(".")
            rows.append((axis, code(name), code(cls.__name__), code(shown) or "-", summary))
    return table(("axis", "name", "class", "fields", "what it is"), rows)


def attacks() -> str:
    """Return the attacks with their fields."""
    rows = []
    for name, cls in ATTACKS.items():
        said = parameters(cls)
        for field in dataclasses.fields(cls):
            value = code(repr(field.default))
            rows.append((code(name), code(field.name), value, said[field.name]))
    return table(("attack", "field", "default", "meaning"), merged(rows, 0))


def recipes() -> str:
    """Return the recipes that come with taut."""
    rows = []
    for name in training.names():
        recipe = training.load(name)
        rows.append(
            (
                code(name),
                recipe.title,
                code(recipe.method.name),
                code(recipe.model.name),
                f"{recipe.train.epochs}",
                radius(recipe.train.eps),
                radius(recipe.certify.eps),
            )
        )
    columns = ("recipe", "title", "method", "network", "epochs", "train eps", "certify eps")
    return table(columns, rows)


def radius(eps: float) -> str:
    """Return a radius as people write it: in 255ths where that is a whole number."""
    return f"{eps * 255:.0f}/255" if (eps * 255).is_integer() else f"{eps:g}"


def datasets() -> str:
    """Return the data sets and their splits."""
    rows = []
    for data in DATASETS.values():
        sizes = [f"{data.splits[part].size:,}" for part in ("train", "validation", "test")]
        rows.append(
            (
                code(data.name),
                data.title,
                " x ".join(map(str, data.input_shape)),
                *sizes,
                code(data.augmentation),
            )
        )
    columns = ("name", "what it is", "shape", "train", "validation", "test", "usual augmentation")
    return table(columns, rows)


def augmentations() -> str:
    """Return the augmentations by name."""
    rows = (
        (
            code(name),
            "yes" if a.flip else "no",
            str(a.pad),
            code(a.mode) if a.pad else "-",
            "as it was" if a.crop is None else f"{a.crop} x {a.crop}",
            _rectangle(a),
        )
        for name, a in AUGMENTATIONS.items()
    )
    columns = ("name", "flip", "shift, pixels", "filled with", "size", "before, a rectangle")
    return table(columns, rows)


def _rectangle(augment: Augment) -> str:
    """Say what an augmentation does to a random rectangle before it shifts the image."""
    if augment.erase is not None:
        low, high = augment.erase.area
        return f"of {low:g} to {high:g} of the area grey, in {augment.erase.probability:g} of all"
    if augment.enlarge is not None:
        low, high = augment.enlarge.area
        return f"of {low:g} to {high:g} of the area enlarged to the whole"
    return "-"


def networks() -> str:
    """Return the named networks at their default shapes."""
    rows = []
    for model in MODELS.values():
        shape = " x ".join(map(str, model.input_shape))
        count = size(model.name)
        rows.append(
            (
                code(model.name),
                model.layers,
                shape,
                f"{count.parameters:,}",
                f"{count.activations:,}",
                model.source,
            )
        )
    return table(("name", "layers", "input", "parameters", "activations", "source"), rows)


TABLES: dict[str, Callable[[], str]] = {
    **{f"recipe-{name}": (lambda n=name, c=cls: keys(n, c)) for name, cls in SECTIONS.items()},
    "recipe-method": method_keys,
    "training-attack": attack_keys,
    "training-methods": training_methods,
    "bounding-methods": bounding_methods,
    "bounding-points": engine_tables.points,
    "axes": axes,
    "attacks": attacks,
    "operators": engine_tables.operators,
    "recipes": recipes,
    "datasets": datasets,
    "augmentations": augmentations,
    "networks": networks,
    "commands": command_tree.reference,
}
"""Every table by the name pages call it."""


def renewed(text: str) -> str:
    """Return a page with every generated part as it should be.

    Raises
    ------
    KeyError
        When the page asks for a table that does not exist.

    """

    def replace(match: re.Match[str]) -> str:
        content = TABLES[match["name"]]()
        return f"{match['open']}\n{content}\n\n{match['close']}"

    return _MARKED.sub(replace, text)


def main() -> int:
    """Rewrite the pages, or with ``--check`` only compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "rewritten: ") + ", ".join(stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
