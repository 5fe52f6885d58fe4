"""Recipes made shorter and longer: what counts epochs keeps its proportions."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import pytest

from taut.errors import ConfigError
from taut.training import (
    METHODS,
    EpsRamp,
    GridPoint,
    RateSchedule,
    apply_overrides,
    from_dict,
    load,
    names,
)
from taut.training.recipe import MethodSection
from taut.training.scaling import scaled


def test_a_scaled_recipe_keeps_its_proportions() -> None:
    base = apply_overrides(
        load("demo"),
        ["train.epochs=200", "train.average_from=150", "train.validate_every=10",
         "schedule.kind=linear", "schedule.convention=crown-ibp", "schedule.start=10",
         "schedule.length=61", "lr.kind=milestones", "lr.milestones=[125, 190]", "lr.warmup=4",
         "activation.eta_start=70", "activation.eta_length=70"],
    )  # fmt: skip
    short = base.scaled(0.1)
    assert short.train.epochs == 20
    assert (short.train.average_from, short.train.validate_every) == (15, 1)
    assert short.schedule.ends(100) == (100, 700)  # epochs 10 to 70 of 200
    assert short.lr.milestones == (12.5, 19.0)
    assert short.lr.warmup == pytest.approx(0.4)
    assert (short.activation.eta_start, short.activation.eta_length) == (7, 7)
    assert short.train.batch_size == base.train.batch_size
    assert from_dict(short.to_dict()) == short
    assert base.scaled(1.0) == base
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="positive number"):
            base.scaled(factor)


@pytest.mark.parametrize("convention", ["crown-ibp", "auto-lirpa", "sabr", "ctbench"])
def test_ramps_of_every_convention_are_scaled_as_they_run(convention: Any) -> None:
    ramp = EpsRamp("smoothed", 20, 41, convention)
    begin, end = ramp.ends(100)
    short = scaled(ramp, 0.5)
    assert (short.convention, short.kind) == (convention, "smoothed")
    tolerance = 50  # half an epoch of rounding at each end
    assert abs(short.ends(100)[0] - begin / 2) <= tolerance
    assert abs(short.ends(100)[1] - end / 2) <= 2 * tolerance
    rate = RateSchedule("milestones", (21, 41), convention="start-of-epoch")
    assert scaled(rate, 0.5).milestones == (11.0, 21.0)  # acts when 20, then 40 epochs are done
    least = scaled(EpsRamp("linear", 2, 2, convention), 1e-6)
    assert least.ends(10)[1] > least.ends(10)[0] or convention == "crown-ibp"


@dataclasses.dataclass(frozen=True)
class Warming:
    """A part of a method with a ramp of its own."""

    ramp: EpsRamp = dataclasses.field(default_factory=lambda: EpsRamp("linear", 10, 41))
    rounds: int = dataclasses.field(default=8, metadata={"unit": "epochs"})
    steps: int = 8


@dataclasses.dataclass(frozen=True)
class Warmed:
    """A method that is no point of the grid."""

    attack: Warming = dataclasses.field(default_factory=Warming)
    certifiers: tuple[str, ...] = ("ibp",)


def test_ramps_inside_a_method_are_scaled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    described = dataclasses.replace(METHODS["natural"], method=Warmed())  # type: ignore[arg-type]
    known = {**METHODS, "warmed": described}
    monkeypatch.setattr(importlib.import_module("taut.training.choose"), "METHODS", known)
    recipe = apply_overrides(load("mnist-5k-natural"), ["method.name=warmed", "train.epochs=40"])
    assert recipe.scaled(0.5).method.build() == Warmed(Warming(EpsRamp("linear", 5, 21), 4, 8))
    changed = apply_overrides(recipe, ["method.attack.steps=3", "method.attack.ramp.start=20"])
    short = changed.scaled(0.5)
    assert short.method.build() == Warmed(Warming(EpsRamp("linear", 10, 21), 4, 3))
    assert from_dict(short.to_dict()) == short


@pytest.mark.parametrize("name", names())
def test_every_recipe_can_be_scaled(name: str) -> None:
    recipe = load(name)
    for factor in (0.001, 0.1, 0.37, 3.0):
        short = recipe.scaled(factor)
        assert short.train.epochs == max(1, math.floor(recipe.train.epochs * factor + 0.5))
        assert list(short.lr.milestones) == sorted(short.lr.milestones)
        first = 1 if short.lr.convention == "start-of-epoch" else 0  # epochs before it are done
        assert all(m - first < short.train.epochs for m in short.lr.milestones)
        assert from_dict(short.to_dict()) == short
        assert short.settings().average_from < short.train.epochs


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_can_be_scaled(name: str) -> None:
    section = MethodSection(name)
    short = section.scaled(0.5)
    method, built = METHODS[name].method, short.build()
    if isinstance(method, GridPoint):
        for axis in ("region", "bound", "combination"):
            assert getattr(built, axis) == scaled(getattr(method, axis), 0.5)
    else:
        assert built == scaled(method, 0.5)
    assert section.scaled(1.0) == section
