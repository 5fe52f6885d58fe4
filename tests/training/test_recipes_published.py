"""The recipes of published settings: what their names say, and the schedules worked out by hand."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from taut.bounds import METHODS as BOUNDING
from taut.data import AUGMENTATIONS, DATASETS
from taut.models import MODELS, size
from taut.training import (
    IBP,
    METHODS,
    TAPS,
    Bisector,
    CrownIBP,
    FullBall,
    GridPoint,
    Mix,
    Radii,
    SmallBox,
    Sum,
    TrainingAttack,
    from_dict,
    load,
    names,
)

PUBLISHED = [name for name in names() if "/" in name]
PAPERS = {
    "ibp", "crown-ibp", "gm", "lbp", "adv-ibp", "sabr", "shi", "ctbench", "expressive",
    "loss-landscape", "abscert",
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return files("taut").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")


def images(data: str) -> tuple[tuple[int, ...], int]:
    """Return the shape and the number of classes of a recipe's images."""
    return DATASETS[data].input_shape, len(DATASETS[data].classes)


def test_every_paper_has_a_folder_and_the_wheel_takes_it() -> None:
    assert {name.split("/")[0] for name in PUBLISHED} == PAPERS
    folder = ROOT / "src" / "taut" / "recipes"
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".toml"}
    assert len(list(folder.rglob("*.toml"))) == len(names())
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"] == {"packages": ["src/taut"]}  # the package with all its files
    titles = [load(name).title for name in names()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_what_its_name_says(name: str) -> None:
    recipe = load(name)
    told = re.fullmatch(
        r"[a-z-]+/(mnist|cifar10|tiny-imagenet|imagenet)-([\d.]+)-([a-z][a-z0-9.-]*)", name
    )
    assert told is not None
    assert recipe.data.name.startswith(told[1])
    grey = 1.0 if told[1] == "mnist" else 255.0
    if name.startswith("abscert/"):  # whose radii are on pixels of [-1, 1]
        grey *= 2
    assert recipe.certify.eps == pytest.approx(float(told[2]) / grey, rel=1e-12)
    assert recipe.train.eps >= recipe.certify.eps * (1 - 1e-12)
    assert METHODS[recipe.method.name].name == recipe.method.name
    recipe.method.build()
    assert set(recipe.certify.stages) <= {"clean", "attack", *BOUNDING}
    if recipe.method.name not in ("natural", "pgd"):
        family = recipe.method.name.removesuffix("-fused")
        ablation = name in ("sabr/cifar10-2-ibp", "sabr/cifar10-2-pgd")
        assert told[3].startswith(family) or ablation


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_network_takes_its_images(name: str) -> None:
    recipe = load(name)
    shape, classes = images(recipe.data.name)
    assert recipe.data.augment in AUGMENTATIONS
    assert recipe.model.name in MODELS
    options = recipe.model.options
    assert set(options) <= {"mean", "std", "activation", "slope", "cells"}
    assert len(options.get("mean", shape[:1] * shape[0])) == shape[0]
    counted = size(recipe.model.name, shape, classes, activation=options.get("activation"))
    assert counted.parameters > 0
    if recipe.data.name.startswith("tiny-imagenet"):  # each size has networks of its own
        assert shape == MODELS[recipe.model.name].input_shape
        assert classes == MODELS[recipe.model.name].classes


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_header_cites_a_source_and_names_departures(name: str) -> None:
    header = " ".join(
        line.removeprefix("#").strip() for line in text(name).split("title =")[0].splitlines()
    )
    source = re.search(r"Source: (.*) Departures: (.*)", header)
    assert source is not None
    assert re.match(r"[A-Z][\w ]+ (et al\.|and \S+) 20\d\d \(.*(arXiv:\d{4}\.\d{5}|FITEE|NeurIPS)",
                    source[1])  # fmt: skip
    held = DATASETS[load(name).data.name].splits["validation"].size
    assert f"{held:,} training images are held out for validation" in source[2]
    assert all(len(line) <= 100 for line in text(name).splitlines())


@pytest.mark.parametrize(
    ("name", "steps", "begin", "end"),
    [
        # 60,000 images in batches of 256 are 235 steps, of 100 are 600, of 200 are 300;
        # 50,000 in batches of 128 are 391, of 256 are 196, of 1024 are 49
        ("ibp/mnist-0.3-ibp", 300, 2_100, 12_000),  # published 2,000 and 12,000
        ("crown-ibp/mnist-0.4-crown-ibp", 235, 2_350, 14_100),  # epochs 10 to 60
        ("crown-ibp/cifar10-8-crown-ibp", 49, 15_680, 94_080),  # epochs 320 to 1920
        ("crown-ibp/cifar10-8-crown-ibp-sweep", 391, 3_910, 50_830),  # epochs 10 to 130
        ("gm/mnist-0.4-gm-crown-ibp", 235, 235, 14_335),  # epochs 1 to 61
        ("gm/mnist-0.4-ibp-train0.5", 600, 6_000, 24_000),  # epochs 10 to 40
        ("gm/cifar10-14-gm-crown-ibp", 391, 3_910, 50_830),
        ("lbp/mnist-0.4-ibp-ramp", 235, 2_350, 14_100),
        ("lbp/cifar10-2-ibp-ramp", 49, 15_680, 94_080),
        ("lbp/tiny-imagenet-1-ibp-ramp", 910, 91_000, 455_000),  # 100,000 in batches of 110
        ("adv-ibp/mnist-0.4-adv-ibp", 235, 11_750, 23_265),  # epochs 50 to 99
        ("adv-ibp/cifar10-8-adv-ibp", 196, 158_760, 354_564),  # epochs 810 to 1809
        # t = epoch * 234 + batch from epoch 1, T0 = 2 * 234 - 1, T1 = 22 * 234, less 234
        ("sabr/mnist-0.1-sabr", 234, 233, 4_914),
        ("sabr/cifar10-2-sabr", 390, 389, 31_590),  # T1 = 82 * 390 less 390
        ("shi/cifar10-8-ibp-shi", 391, 391, 31_671),  # epochs 2 to 81, counted from 1
        ("shi/mnist-0.4-ibp-shi", 235, 0, 4_700),
        ("ctbench/mnist-0.1-sabr", 235, 0, 4_700),
        ("ctbench/cifar10-2-taps", 391, 391, 31_671),
        ("ctbench/cifar10-8-staps", 391, 391, 47_311),  # epochs 1 to 121
    ],
)
def test_ramps_end_at_the_published_steps(name: str, steps: int, begin: int, end: int) -> None:
    assert load(name).schedule.ends(steps) == (begin, end)


def test_rates_fall_when_published() -> None:
    def factor(name: str, epoch: int, steps: int = 10) -> float:
        """Return the factor in an epoch, from 0."""
        recipe = load(name)
        end = recipe.schedule.ends(steps)[1]
        return recipe.lr.factor_at(epoch * steps, steps, recipe.train.epochs, end)

    sabr = [factor("sabr/mnist-0.1-sabr", epoch) for epoch in (48, 49, 58, 59)]
    assert sabr == pytest.approx([1, 0.2, 0.2, 0.04])  # from epochs 50 and 60 on, counted from 1
    shi = [factor("shi/cifar10-8-ibp-shi", epoch) for epoch in (119, 120, 139, 140)]
    assert shi == pytest.approx([1, 0.2, 0.2, 0.04])
    gm = [factor("gm/mnist-0.4-gm-crown-ibp", epoch) for epoch in (1, 60, 70, 71, 81)]
    assert gm == [1, 1, 1, 0.5, 0.25]  # the ramp ends with epoch 60, counted from 0
    assert factor("ibp/mnist-0.2-ibp", 49) == 1
    assert factor("ibp/mnist-0.2-ibp", 50) == pytest.approx(0.1)
    assert factor("ibp/mnist-0.2-ibp", 84) == pytest.approx(0.01)


def test_methods_are_those_of_the_papers() -> None:
    built = {name: load(name).method.build() for name in PUBLISHED}
    pure = CrownIBP(1.0, 1.0)
    several = GridPoint(Radii(10, "inverse-sqrt"), pure, Mix(1.0, 0.5))
    assert built["gm/mnist-0.35-gm-crown-ibp"] == several
    assert built["gm/cifar10-5-crown-ibp"] == GridPoint(bound=pure, combination=Mix(0, 0))
    found = TrainingAttack(steps=8, step=0.5, milestones=(4, 7))
    assert built["sabr/cifar10-2-sabr"] == GridPoint(SmallBox(0.1, found), IBP(0.8), Mix(0, 0))
    assert built["sabr/mnist-0.3-sabr"] == GridPoint(SmallBox(0.6, found), IBP(), Mix(0, 0))
    adversarial = built["sabr/cifar10-2-pgd"]
    assert adversarial == GridPoint(FullBall(), IBP(), Sum(0.0, found), "clean")
    taps = built["ctbench/tiny-imagenet-1-taps"]
    assert taps == GridPoint(bound=TAPS(split=5, scale=8.0), combination=Mix(0.3, 0.3))
    attack = TrainingAttack(steps=8, step=0.25, scale=2.1)
    assert built["expressive/cifar10-2-mtl-ibp"] == (
        GridPoint(combination=Sum(0.004, attack), statistics="attacked")
    )
    bisector = built["adv-ibp/mnist-0.1-adv-ibp"]
    assert isinstance(bisector, GridPoint)
    assert isinstance(bisector.combination, Bisector)
    assert bisector.combination.threshold == pytest.approx(1e-5 * 256)
    assert bisector.combination.attack_ramp.ends(235) == (2_350, 11_515)  # epochs 10 to 49
    assert bisector.combination.threshold_at(109) == bisector.combination.threshold
    assert bisector.combination.threshold_at(158) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tenth_keeps_the_proportions(name: str) -> None:
    whole = load(name)
    short = whole.scaled(0.1)
    assert from_dict(short.to_dict()) == short
    factor = short.train.epochs / whole.train.epochs
    assert factor == pytest.approx(0.1, abs=0.5 / whole.train.epochs)
    assert short.lr.milestones == pytest.approx(
        [1 + (m - 1) * factor for m in whole.lr.milestones]
        if whole.lr.convention == "start-of-epoch"
        else [m * factor for m in whole.lr.milestones]
    )
    for old, new in zip(whole.schedule.ends(1000), short.schedule.ends(1000), strict=True):
        assert abs(new - factor * old) <= 1000 + 1  # rounded to whole epochs, at both ends
    assert short.train.average_from < short.train.epochs
    assert (short.train.average_from > 0) == (whole.train.average_from > 0)
    unchanged = ("eps", "batch_size", "lr", "init", "grad_clip")
    assert all(getattr(short.train, key) == getattr(whole.train, key) for key in unchanged)
