"""Around the grid: initial weights, averages, statistics, optimisers, scaling, evaluation."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import MemorySink, blobs, same_bits, tiny_net, weights

import taut
from taut.bounds import interval
from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.training import (
    EpsRamp,
    Natural,
    RateSchedule,
    Settings,
    fit,
)
from taut.training.evaluate import validate
from taut.training.initialise import shi
from taut.training.population import population_statistics


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {
        "epochs": 4, "eps": 0.1, "batch_size": 20, "lr": 1e-2, "device": "cpu", "threads": 1,
        "schedule": EpsRamp("linear", 1, 3), "validation_attack_images": 0,
    }  # fmt: skip
    return Settings(**(base | fields))


# --- initial weights ----------------------------------------------------------------------------


def test_shi_weights_have_the_spread_of_the_formula_and_the_last_layer_none_of_it() -> None:
    net = taut.build_model("dm-large", (3, 16, 16))
    before = weights(net)
    shi(net, trace(net, (3, 16, 16)), seed=3)
    layers = [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        fan_in = layer.weight[0].numel()
        count = layer.weight.numel()
        std = math.sqrt(2 * math.pi) / fan_in
        assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
        assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(count)
    after = weights(net)
    kept = {name for name in after if name.endswith("bias")} | {f"{len(net) - 1}.weight"}
    assert {name for name in after if torch.equal(before[name], after[name])} == kept
    again = taut.build_model("dm-large", (3, 16, 16))
    shi(again, trace(again, (3, 16, 16)), seed=3)
    other = taut.build_model("dm-large", (3, 16, 16))
    shi(other, trace(other, (3, 16, 16)), seed=4)
    assert torch.equal(again[0].weight, net[0].weight)
    assert not torch.equal(other[0].weight, net[0].weight)


def growth(net: nn.Sequential, shape: tuple[int, int, int]) -> list[float]:
    """Mean radius of each activation's input over that of the one before."""
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        known = interval.propagate(trace(net, shape).instance(), Box.around(x, 0.01, None))
    radii = [(b.upper - b.lower).mean().item() / 2 for b in known.activations()]
    return [after / before for before, after in itertools.pairwise(radii)]


def test_intervals_neither_grow_nor_shrink_under_shi_weights() -> None:
    torch.manual_seed(0)
    net = taut.build_model("dm-large", (1, 16, 16))
    default = growth(net, (1, 16, 16))
    shi(net, trace(net, (1, 16, 16)), seed=0)
    assert all(0.5 < ratio < 2.0 for ratio in growth(net, (1, 16, 16)))
    assert not all(0.5 < ratio < 2.0 for ratio in default)


class Block(nn.Module):
    """An addition, an activation and a layer that reads it; a plain layer for comparison."""

    def __init__(self, width: int = 300) -> None:
        super().__init__()
        self.last = nn.Linear(width, 3)  # first in order of definition, last in the graph
        self.first, self.second = nn.Linear(16, width), nn.Linear(width, width)
        self.after = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.flatten(1)))
        h = torch.relu(self.second(h) + h)
        logits: Tensor = self.last(torch.relu(self.after(h)))
        return logits


def test_layers_that_read_a_residual_sum_are_halved() -> None:
    net = Block()
    last = net.last.weight.clone()
    shi(net, trace(net, (1, 4, 4)), seed=0)
    std = math.sqrt(2 * math.pi)
    for layer, expected in ((net.first, std / 16), (net.second, std / 300), (net.after, std / 600)):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert torch.equal(net.last.weight, last)


def test_weights_that_are_computed_cannot_be_drawn() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.utils.parametrizations.weight_norm(net[1])
    with pytest.raises(ConfigError, match="parametrization"):
        shi(net, trace(net, (1, 4, 4)), seed=0)


def test_initial_weights_are_drawn_once_and_not_on_resumption() -> None:
    chosen = settings(init="shi", lr=1e-30)
    sink = MemorySink()
    short = dataclasses.replace(chosen, epochs=1)
    first = weights(fit(tiny_net(), blobs(), None, Natural(), short, sink=sink).model)
    drawn = tiny_net(seed=7)
    shi(drawn, trace(drawn, (1, 4, 4)), seed=0)
    assert torch.equal(drawn[0].weight, first["0.weight"])  # whatever the model came with
    sink.state["weights"]["0.weight"] += 1.0
    resumed = weights(
        fit(tiny_net(), blobs(), None, Natural(), chosen, sink=sink, resume=True).model
    )
    assert torch.equal(resumed["0.weight"], first["0.weight"] + 1.0)


# --- averages and statistics --------------------------------------------------------------------


def test_the_average_is_the_mean_of_the_ends_of_the_epochs() -> None:
    ends: list[dict[str, Tensor]] = []

    class Keep(MemorySink):
        def save_checkpoint(self, state: Any) -> None:
            super().save_checkpoint(state)
            ends.append({name: v.clone() for name, v in state["weights"].items()})

    data, held = blobs(), blobs(40, seed=0)
    plain = fit(tiny_net(norm=True), data, held, Natural(), settings(epochs=5))
    sink = Keep()
    result = fit(
        tiny_net(norm=True), data, held, Natural(), settings(epochs=5, average_from=2), sink=sink
    )
    # training does not see the average
    assert [row["loss"] for row in result.rows] == [row["loss"] for row in plain.rows]
    assert all(torch.equal(ends[-1][n], v) for n, v in weights(plain.model).items())
    expected = tiny_net(norm=True)
    for count in (3, 4, 5):
        with torch.no_grad():
            for name, parameter in expected.named_parameters():
                mean = torch.stack([end[name] for end in ends[2:count]]).double().mean(0)
                parameter.copy_(mean)
        population_statistics(trace(expected, (1, 4, 4)), data)
        found = validate(trace(expected, (1, 4, 4)), held, 0.1, ("ibp",))
        assert result.rows[count - 1]["validation"] == pytest.approx(found, abs=1e-6)
    assert result.rows[1]["validation"] == plain.rows[1]["validation"]
    for name, value in weights(expected).items():
        if "batches" not in name:
            torch.testing.assert_close(weights(result.model)[name], value, rtol=1e-5, atol=1e-6)
    again = fit(tiny_net(2, norm=True), data, held, Natural(), settings(epochs=5, average_from=2),
                sink=sink, resume=True)  # fmt: skip
    assert same_bits(weights(again.model), weights(result.model))


def inputs_of_norms(net: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [
        m.register_forward_pre_hook(lambda m, inputs: found.append(inputs[0]))
        for m in net.modules()
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


def assert_population(net: nn.Module, x: Tensor) -> None:
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    seen = inputs_of_norms(net, x)
    assert len(seen) == len(norms) > 0
    for norm, z in zip(norms, seen, strict=True):
        axes = [axis for axis in range(z.dim()) if axis != 1]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, z.mean(axes), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            norm.running_var, z.var(axes, correction=0), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["cnn7", "wide-resnet-tiny", "densenet"])
def test_population_statistics_are_those_of_every_normalisation(name: str) -> None:
    """Of stacks, and of networks with branches: each reads what it says it reads."""
    known = [n for n in taut.models.MODELS if n.startswith(name)]
    net = taut.models.small(known[0])
    shape = taut.models.MODELS[known[0]].small_shape
    x = torch.rand(700, *shape, generator=torch.Generator().manual_seed(1))
    images = taut.ImageSet.from_tensors(x, torch.zeros(700, dtype=torch.int64), 3)
    population_statistics(trace(net, shape), images)
    assert_population(net, x)


def test_population_mode_leaves_the_statistics_of_the_training_images() -> None:
    data = blobs(97)
    net = fit(tiny_net(norm=True), data, None, Natural(), settings(batch_norm="population")).model
    assert_population(net, data.pixels())


def test_processes_share_the_images_of_the_population() -> None:
    whole = tiny_net(norm=True)
    data, barrier, slots = blobs(41), threading.Barrier(2, timeout=60), [torch.zeros(())] * 2
    population_statistics(trace(whole, (1, 4, 4)), data)
    nets = [tiny_net(norm=True), tiny_net(norm=True)]

    def process(rank: int) -> None:
        def add(value: Tensor) -> Tensor:
            slots[rank] = value
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        population_statistics(graphs[rank], data, part=(rank, 2), reduce=add)

    graphs = [trace(net, (1, 4, 4)) for net in nets]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(process, (0, 1)))  # raises what a thread has raised
    for net in nets:
        torch.testing.assert_close(net[1].running_mean, whole[1].running_mean)
        torch.testing.assert_close(net[1].running_var, whole[1].running_var)


# --- optimisers and rates -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        ("radam", lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9)),
    ],
)
def test_optimisers_are_pytorchs(name: str, make: Callable[..., Any]) -> None:
    data = blobs(20)
    chosen = settings(epochs=8, optimiser=name, weight_decay=0.1)
    found = fit(tiny_net(), data, None, Natural(), chosen).model
    net = tiny_net()
    optimiser = make(net.parameters())
    for _ in range(8):  # one batch is the whole set
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(data.pixels()), data.labels).backward()
        optimiser.step()
    for name_, value in weights(net).items():
        torch.testing.assert_close(weights(found)[name_], value, rtol=1e-4, atol=1e-5)


def test_the_rate_warms_up_linearly_and_then_is_what_it_was() -> None:
    rate = RateSchedule("milestones", (3,), 0.1, warmup=2)
    plain = dataclasses.replace(rate, warmup=0.0)
    steps = 10
    for step in range(60):
        expected = plain.factor_at(step, steps, 6, 0) * min((step + 1) / 20, 1.0)
        assert rate.factor_at(step, steps, 6, 0) == pytest.approx(expected, rel=1e-12)
    assert rate.factor_at(0, steps, 6, 0) == 0.05
    with pytest.raises(ConfigError, match=r"lr\.warmup"):
        RateSchedule(warmup=-1.0)


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"average_from": 4}, "train.average_from = 4 leaves none of 4 epochs"),
        ({"average_from": -1}, "train.average_from"),
        ({"init": "magic"}, "train.init must be one of default, shi, xavier"),
        ({"batch_norm": "frozen"}, "train.batch_norm must be one of running, population"),
        ({"validate_every": 0}, "train.validate_every"),
        ({"validation_attack_images": -1}, "train.validation_attack_images"),
        ({"optimiser": "lion"}, "train.optimiser must be one of adam, adamw, radam, sgd"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**fields)


def test_tf32_is_for_gpus() -> None:
    with pytest.raises(ConfigError, match="32-true"):
        fit(tiny_net(), blobs(), None, Natural(), settings(precision="tf32"))
