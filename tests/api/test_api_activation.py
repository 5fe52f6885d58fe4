"""Networks with other activations: in recipes, in run folders, and recognised."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import taut
from taut.errors import ConfigError
from taut.models import ParamRamp
from taut.training import ActivationSchedule, EpsRamp, apply_overrides, load


@pytest.mark.parametrize("activation", ["param-ramp", "leaky-relu", "tanh"])
def test_a_recipe_names_its_activation_and_the_run_folder_rebuilds_the_network(
    activation: str, tmp_path: Path
) -> None:
    from taut.api import planning
    from taut.api.fitting import run_folder, train

    sets = ["model.name=dm-small-crown8-16", "train.epochs=1", "train.batch_size=60"]
    sets += [f"model.options.activation={activation}", "train.validation_attack_images=0"]
    if activation != "tanh":
        sets += ["activation.eta_kind=linear", "activation.eta=0.05"]
    recipe = apply_overrides(load("mnist-5k-natural"), sets)
    plan = planning.from_recipe(recipe)
    plan = dataclasses.replace(plan, train=plan.train[:120], validation=plan.validation[:50])  # type: ignore[index]
    assert plan.architecture["activation"] == activation
    with run_folder(plan, tmp_path / "a", resume=False) as run:
        net = train(plan, run, False).model
    loaded = taut.load_model(tmp_path / "a")
    assert repr(loaded) == repr(net)
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(loaded(x), net(x))
    if activation == "leaky-relu":
        assert loaded[1].negative_slope == 0.05


def test_the_slope_of_a_network_of_ones_own_is_kept_with_its_weights(tmp_path: Path) -> None:
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 5), nn.LeakyReLU(0.3),
            nn.Linear(5, 3),
        )  # fmt: skip

    schedule = ActivationSchedule("linear", eta=0.2, eta_end=0.0, eta_start=0, eta_length=2)
    chosen = taut.Settings(
        epochs=3, eps=0.1, batch_size=20, device="cpu", threads=1, activation=schedule,
        schedule=EpsRamp("linear", 1, 2), validation_attack_images=0,
    )  # fmt: skip
    net = taut.fit(
        make(),
        (torch.rand(40, 1, 4, 4), torch.arange(40) % 3),
        "natural",
        settings=chosen,
        out=tmp_path / "a",
    ).model
    assert net[4].negative_slope == 0.0
    assert taut.load_model(tmp_path / "a", make())[4].negative_slope == 0.0
    assert taut.load_model(tmp_path / "a" / "model.safetensors", make())[4].negative_slope == 0.0


def test_activations_are_recognised_only_where_all_agree() -> None:
    from taut.api.loading import architecture_of

    net = taut.build_model("dm-small-crown8-16", activation="param-ramp")
    found = architecture_of(net, (1, 28, 28), 10)
    assert (found["name"], found["activation"]) == ("dm-small-crown8-16", "param-ramp")
    net[1] = nn.ReLU()
    assert architecture_of(net, (1, 28, 28), 10)["name"] == "custom:Sequential"
    net = taut.build_model("dm-small-crown8-16", activation="leaky-relu")
    assert architecture_of(net, (1, 28, 28), 10)["slope"] == 0.01
    net[1].negative_slope = 0.5
    assert architecture_of(net, (1, 28, 28), 10)["name"] == "custom:Sequential"
    coarse = taut.build_model("dm-small-crown8-16", activation=lambda shape: ParamRamp((1,)))
    assert architecture_of(coarse, (1, 28, 28), 10)["name"] == "custom:Sequential"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.options.activation=swish", "relu, leaky-relu, param-ramp"),
        ("model.options.activation=[1]", "relu, leaky-relu, param-ramp"),
        ("model.options.slope=2", "slope must lie"),
        ("model.options.width=2", "mean, std, activation, slope"),
    ],
)
def test_options_that_do_not_fit_are_refused(override: str, message: str) -> None:
    from taut.api import planning

    with pytest.raises(ConfigError, match=message):
        planning.from_recipe(apply_overrides(load("mnist-5k-natural"), [override]))


def test_a_name_keeps_the_activation_it_was_built_with(tmp_path: Path) -> None:
    """fc3-sigmoid with ReLU is layer by layer fc3-relu: it must come back as what it was."""
    from taut.api.loading import architecture_of, named, named_model

    model = named_model("fc3-sigmoid", (1, 28, 28), 10, {"activation": "relu"})
    kept = named(architecture_of(model, (1, 28, 28), 10), model, "fc3-sigmoid")
    assert (kept["name"], kept["activation"]) == ("fc3-sigmoid", "relu")
    again = named_model(kept["name"], (1, 28, 28), 10, kept)
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]


def test_the_slope_of_a_recipe_reaches_ramps_and_needs_something_to_reach() -> None:
    from taut.api.loading import named_model

    options = {"activation": "param-ramp", "slope": 0.25}
    net = named_model("dm-small-p1", (1, 28, 28), 10, options)
    ramps = [m for m in net.modules() if isinstance(m, ParamRamp)]
    assert ramps
    assert all(float(m.eta) == 0.25 for m in ramps)
    with pytest.raises(ConfigError, match="slope"):
        named_model("dm-small-p1", (1, 28, 28), 10, {"slope": 0.25})
