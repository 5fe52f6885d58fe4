"""The table of operators: what a traced model may hold and how to build it.

One entry per operator. The tracer looks targets up here, ``UnsupportedOperator``
lists the names, and the soundness harness fuzzes every entry's ``cases``: to
register an operator is enough for it to be tested.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from taut.operators.base import Operator, Shape

Live = Callable[[], Tensor]
"""Reads a parameter, buffer or an expression of them from the module, at this moment."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph that depends on the input: node index and shape without batch."""

    index: int
    shape: Shape


@dataclass(frozen=True)
class Inner:
    """An operator in front of another: one call of a model may stand for several steps.

    A maximum of two tensors, for example, is a stack and a maximum over an axis.
    """

    template: Template
    shape: Shape
    """Shape of its result, without batch."""


@dataclass(frozen=True)
class Template:
    """How to make an operator from the parameters of this moment, and what it reads."""

    inputs: tuple[Value | Inner, ...]
    make: Callable[[], Operator]
    norm: BatchNormSource | None = None
    noise: nn.Module | None = None
    """A module the clean pass calls in training mode (dropout); bounds never see it."""
    folds: bool = False
    """Whether the operator has ``scaled(scale, shift)``, so a batch norm can fold into it."""


@dataclass(frozen=True)
class BatchNormSource:
    """Where a batch normalisation finds its parameters; the graph needs them one by one."""

    mean: Live | None
    var: Live | None
    weight: Live | None
    bias: Live | None
    eps: float
    training: Callable[[], bool]
    track: Callable[[Tensor, Tensor, int], None]
    """Updates the running statistics from a batch's mean, variance and count."""


@dataclass(frozen=True)
class Case:
    """One random instance for the soundness harness: an operator and its input shapes."""

    operator: Operator
    shapes: tuple[Shape, ...]


Build = Callable[..., Template | tuple[Template, ...]]
"""Called with the output shape, the module (or None) and the call's own arguments.

A call that returns several tensors (a split) gets a tuple of shapes and returns as many templates.
"""


@dataclass(frozen=True)
class Entry:
    """One operator: its name, what it is traced from, and how it is fuzzed."""

    name: str
    summary: str
    cases: Callable[[torch.Generator], list[Case]]


OPERATORS: dict[str, Entry] = {}
BUILDERS: dict[object, Build] = {}

_PRETTY = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/"}


def register(entry: Entry) -> None:
    """Add an operator to the table; its name must be new."""
    if entry.name in OPERATORS:
        raise ValueError(f"operator {entry.name!r} is registered twice")
    OPERATORS[entry.name] = entry


Builder = TypeVar("Builder", bound=Build)


def builds(*targets: object) -> Callable[[Builder], Builder]:
    """Declare that a function builds templates for these modules, functions or method names.

    It is called as ``build(shape, module, *args, **kwargs)`` with the arguments of
    the traced call: tensors that depend on the input come as :class:`Value`,
    parameters and expressions of them as :data:`Live`, all else as it is.
    """

    def add(build: Builder) -> Builder:
        for target in targets:
            if target in BUILDERS:
                raise ValueError(f"{describe(target)} is registered twice")
            BUILDERS[target] = build
        return build

    return add


def supported() -> str:
    """Return a comma-separated list of everything a traced model may hold."""
    return ", ".join(sorted({describe(target) for target in BUILDERS}))


def describe(target: Any) -> str:
    """Return the name a user knows a module class, function or method by."""
    if isinstance(target, str):
        return f"Tensor.{target}"
    if target in _PRETTY:
        return _PRETTY[target]
    if isinstance(target, type) and issubclass(target, nn.Module):
        torch_own = target.__module__.startswith("torch.")
        return f"nn.{target.__name__}" if torch_own else f"taut's {target.__name__}"
    return getattr(target, "__name__", str(target))


def live(value: Tensor | Live | float | None) -> Live | None:
    """Return ``value`` as a reader, also when it is a number or a tensor already."""
    if value is None or callable(value):
        return value
    if isinstance(value, Tensor):
        return lambda: value
    # A number keeps its double precision; without dimensions it changes no one's type.
    return lambda: torch.tensor(value, dtype=torch.float64)


def attribute(module: nn.Module, name: str) -> Live | None:
    """Return a reader of ``module.name``, or None when the module has none."""
    if getattr(module, name, None) is None:
        return None

    def read() -> Tensor:
        found: Tensor = getattr(module, name)
        return found

    return read
