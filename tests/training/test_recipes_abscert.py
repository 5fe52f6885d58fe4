"""The recipes of ABSCERT: radii, grids, and the rates and weights its runs begin with."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from importlib.resources import files

import pytest
import torch
from torch import nn
from training_helpers import blobs

import taut
from taut.api.planning import seeded_model
from taut.data import DATASETS, find_augmentation
from taut.errors import ConfigError
from taut.graph import trace
from taut.training import Natural, RateSchedule, Settings, from_dict, load, names
from taut.training.initialise import initialise

RECIPES = [name for name in names() if name.startswith("abscert/")]


def printed(name: str) -> Fraction:
    """The radius of a name, on [-1, 1]: in tenths for MNIST, else in 255ths."""
    told = re.match(r"abscert/(mnist|cifar10|imagenet)-([\d.]+)-", name)
    assert told is not None
    return Fraction(told[2]) / (1 if told[1] == "mnist" else 255)


def test_every_row_of_the_tables_has_its_recipe() -> None:
    mnist, colour = ("0.1", "0.2", "0.3", "0.4"), ("2", "4", "6", "8", "16")
    dm = ("dm-small", "dm-medium", "dm-large")
    others = ("fc3-sigmoid", "fc5-sigmoid", "dm-small-sigmoid",
              "fc3-tanh", "fc5-tanh", "dm-small-tanh", "dm-medium-tanh")  # fmt: skip
    large = ("alexnet", "vgg11", "inception-v1", "resnet18")
    expected = {f"abscert/mnist-{eps}-{net}" for eps in mnist for net in (*dm, *others)}
    expected |= {f"abscert/cifar10-{eps}-{net}" for eps in colour for net in dm}
    fewer = ("2", "16", "32", "64")
    expected |= {f"abscert/cifar10-{eps}-{net}" for eps in fewer for net in others}
    expected |= {f"abscert/imagenet-{eps}-{net}" for eps in ("2", "4", "8") for net in large}
    assert set(RECIPES) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_the_grid_is_one_the_radius_allows_and_the_header_says_which(name: str) -> None:
    recipe, eps = load(name), printed(name)
    cells = recipe.model.options["cells"]
    assert set(cells) == {"n", "emit"}
    assert cells["emit"] == "ends"
    n = cells["n"]
    assert recipe.certify.eps == recipe.train.eps == pytest.approx(float(eps) / 2, rel=1e-12)
    most = math.floor(1 / eps)  # d = 2 / n >= 2 eps
    assert n <= most
    assert recipe.tune.cells[-1] == max(recipe.tune.cells) <= most
    assert list(recipe.tune.cells) == sorted(recipe.tune.cells)
    assert n in recipe.tune.cells
    assert recipe.tune.by == "cell-accuracy"
    assert recipe.method.build() == Natural()
    text = files("taut").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    header = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    assert f"n = {n}, of width d = 2/{n} = {round(2 / n, 4):g} on [-1, 1]" in header
    assert "the printed eps is on pixels of [-1, 1]" in header
    assert "is the error on clean images, taut.cell_accuracy" in header
    assert f"so that n is {most} at most" in header
    # what counts as published: the best grids of the published code
    known = {"mnist-0.1-dm-small": 9, "mnist-0.1-dm-medium": 9, "mnist-0.1-dm-large": 7,
             "cifar10-2-dm-small": 31, "cifar10-2-dm-medium": 57, "cifar10-2-dm-large": 44,
             "imagenet-2-resnet18": 125}  # fmt: skip
    assert n == known.get(name.removeprefix("abscert/"), n)
    assert ("given by the published code" in header) or name.split("/")[1] not in known


def test_equal_printed_figures_have_equal_grids() -> None:
    def n(name: str) -> int:
        return int(load(f"abscert/{name}").model.options["cells"]["n"])

    for net in ("dm-small", "dm-medium", "dm-large"):
        assert n(f"cifar10-2-{net}") == n(f"cifar10-4-{net}")
    assert n("cifar10-2-dm-small") == n("cifar10-8-dm-small") > n("cifar10-16-dm-small")
    assert n("cifar10-6-dm-large") == n("cifar10-8-dm-large")
    assert n("mnist-0.1-fc3-sigmoid") == n("mnist-0.3-fc3-sigmoid") > n("mnist-0.4-fc3-sigmoid")
    assert n("imagenet-2-alexnet") == n("imagenet-4-alexnet") > n("imagenet-8-alexnet")


@pytest.mark.parametrize("name", [n for n in RECIPES if "imagenet" not in n and "large" not in n])
def test_the_network_reads_both_ends_of_every_channel(name: str) -> None:
    recipe = load(name)
    shape = DATASETS[recipe.data.name].input_shape
    model = seeded_model(recipe.model.name, shape, 10, 0, recipe.model.options).eval()
    n, grey = recipe.model.options["cells"]["n"], torch.randint(256, (1, *shape))
    ends = model[0](grey / 255)
    assert ends.shape[1] == 2 * shape[0]
    lower = -1 + 2 * (grey * n // 255).clamp(max=n - 1) / n
    assert torch.allclose(ends, torch.cat([lower + 2 / n, lower], 1), atol=1e-6)
    kinds = {type(module) for module in model.modules()}
    act = nn.Sigmoid if "sigmoid" in name else nn.Tanh if "tanh" in name else nn.ReLU
    assert kinds & {nn.Sigmoid, nn.Tanh, nn.ReLU} == {act}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist-0.1-dm-large", ("adam", 1e-3, 2e-4, 256, 10, "xavier", "none")),
        ("cifar10-2-dm-small", ("adam", 3e-3, 2e-4, 128, 30, "xavier", "flip-erase-crop4-grey")),
        ("mnist-0.4-fc5-tanh", ("adam", 1e-2, 0, 128, 10, "xavier", "none")),
        ("imagenet-2-alexnet", ("sgd", 1e-2, 5e-4, 128, 90, "gaussian", "flip-enlarge")),
        ("imagenet-4-vgg11", ("sgd", 1e-2, 5e-4, 128, 90, "default", "flip-enlarge")),
        ("imagenet-8-inception-v1", ("sgd", 1e-2, 5e-4, 256, 90, "xavier", "flip-enlarge")),
        ("imagenet-8-resnet18", ("sgd", 1e-1, 1e-4, 256, 150, "kaiming", "flip-enlarge")),
    ],
)
def test_the_optimiser_is_the_published_one(name: str, expected: tuple[object, ...]) -> None:
    recipe = load(f"abscert/{name}")
    t = recipe.train
    found = (t.optimiser, t.lr, t.weight_decay, t.batch_size, t.epochs, t.init, recipe.data.augment)
    assert found == expected
    assert find_augmentation(recipe.data.augment).flip == (recipe.data.name != "mnist")


@pytest.mark.parametrize("name", RECIPES)
def test_the_rate_rises_over_a_tenth_and_falls_by_half_a_cosine(name: str) -> None:
    recipe, steps = load(name), 30
    total = steps * recipe.train.epochs
    rates = [recipe.lr.factor_at(t, steps, recipe.train.epochs, 0) for t in range(total)]
    if "alexnet" in name:
        assert [rates[e * steps] for e in (0, 17, 18, 36, 54, 72, 89)] == pytest.approx(
            [1, 1, 0.1, 0.01, 0.001, 1e-4, 1e-4]
        )
        return
    w = total // 10
    for t, rate in enumerate(rates):
        fall = 0.5 * (1 + math.cos(math.pi * (t - w) / (total - w)))
        assert rate == pytest.approx((t + 1) / w if t < w else fall, abs=1e-12)
    half = recipe.scaled(0.5)
    assert half.lr.warmup / half.train.epochs == pytest.approx(0.1)


def test_a_warm_up_longer_than_the_run_never_falls() -> None:
    rate = RateSchedule(kind="warmup-cosine", warmup=5.0)
    factors = [rate.factor_at(t, 10, 3, 0) for t in range(30)]
    assert factors == pytest.approx([(t + 1) / 50 for t in range(30)])
    with pytest.raises(ConfigError, match=r"lr\.kind must be one of .*warmup-cosine"):
        RateSchedule(kind="sawtooth")  # type: ignore[arg-type]


def wide() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(4, 32, 3, groups=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 4, 300), nn.ReLU(), nn.Linear(300, 50),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["xavier", "kaiming", "gaussian"])
def test_weights_are_drawn_by_their_formula_and_nothing_else_is(kind: str) -> None:
    model, same = wide(), wide()
    initialise(kind, model, trace(model, (4, 4, 4)), seed=5)
    initialise(kind, same, trace(same, (4, 4, 4)), seed=5)
    other = wide()
    initialise(kind, other, trace(other, (4, 4, 4)), seed=6)
    before = wide().state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        drawn = name in ("0.weight", "4.weight", "6.weight")
        assert torch.equal(value, before[name]) == (not drawn)
        assert torch.equal(value, other.state_dict()[name]) == (not drawn)
        if not drawn:
            continue
        weight = value.double()
        pixels = 9 if weight.dim() == 4 else 1
        inputs, outputs = weight.shape[1] * pixels, weight.shape[0] * pixels
        variance = {"xavier": 2 / (inputs + outputs), "kaiming": 2 / inputs, "gaussian": 1e-4}[kind]
        spread = 5 * math.sqrt(2 / weight.numel())
        assert float(weight.var()) == pytest.approx(variance, rel=spread)
        assert abs(float(weight.mean())) < 5 * math.sqrt(variance / weight.numel())
        kurtosis = float((weight**4).mean()) / variance**2
        assert kurtosis == pytest.approx(9 / 5 if kind == "xavier" else 3, rel=0.3)
        if kind == "xavier":
            assert float(weight.abs().max()) <= math.sqrt(3 * variance)


def test_training_begins_with_these_weights() -> None:
    data, found = blobs(), {}
    for init in ("default", "gaussian"):
        model = taut.build_model("fc3", data.shape, 3, cells={"n": 3, "emit": "ends"})
        start = {key: value.clone() for key, value in model.state_dict().items()}
        settings = Settings(epochs=1, eps=0.1, lr=1e-30, init=init, device="cpu", threads=1)
        trained = taut.fit(model, data, "natural", settings=settings).model.state_dict()
        found[init] = [k for k in start if not torch.allclose(start[k], trained[k], atol=1e-12)]
        layers = [k for k in start if k.endswith("weight")]
    assert found == {"default": [], "gaussian": layers}
    assert all(abs(float(trained[k].std()) - 0.01) < 0.004 for k in layers)


def test_what_tune_takes_is_checked_and_left_out_where_it_says_nothing() -> None:
    table = load("abscert/mnist-0.1-dm-small").to_dict()
    assert table["tune"] == {"cells": list(range(2, 11)), "by": "cell-accuracy", "stop": True}
    assert from_dict(table).to_dict() == table
    assert "tune" not in load("demo").to_dict()
    for wrong, words in (
        ({"cells": [0, 2]}, "different numbers of cells from 1"),
        ({"cells": [2, 2]}, "different numbers of cells"),
        ({"cells": 3}, "a list"),
        ({"by": "luck"}, "tune.by must be"),
        ({"cell": [2]}, "did you mean 'cells'"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_dict({**table, "tune": wrong})
