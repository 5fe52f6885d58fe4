"""ParamRamp in training: slope and range, their schedules, noise, and exact resumption."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import MemorySink, blobs, same_bits, tiny_net, weights

from taut.bounds import interval, method_named
from taut.errors import ConfigError, RunError
from taut.graph import Graph, trace
from taut.models import ParamRamp
from taut.operators.base import Activation
from taut.region import Box
from taut.training import (
    METHODS,
    ActivationSchedule,
    EpsRamp,
    Losses,
    Natural,
    Progress,
    Settings,
    fit,
)


def ramp_net(seed: int = 1, eta: float = 0.1, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(1, 3, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(3))
    layers += [ParamRamp((3, 4, 4), eta), nn.Flatten(), nn.Linear(48, 8), ParamRamp((8,), eta)]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {
        "epochs": 5, "eps": 0.1, "batch_size": 20, "lr": 1e-2, "device": "cpu", "threads": 1,
        "schedule": EpsRamp("linear", 2, 3), "validation_attack_images": 0,
    }  # fmt: skip
    return Settings(**(base | fields))


def ranges(model: nn.Module) -> list[Tensor]:
    return [m.r.detach().clone() for m in model.modules() if isinstance(m, ParamRamp)]


# --- the activation -----------------------------------------------------------------------------


def test_the_gradient_of_the_range_is_the_formula() -> None:
    ramp = ParamRamp((6,), eta=0.3).double()
    ramp.set_eta(0.3)
    z = torch.linspace(-2, 3, 36, dtype=torch.float64).view(6, 6) + 0.01
    (found,) = torch.autograd.grad(ramp(z).sum(), ramp.r)
    torch.testing.assert_close(found, (1 - ramp.eta) * (z > 1.0).sum(0))


def test_an_infinite_range_is_a_leaky_relu_under_every_bound() -> None:
    net = ramp_net().double()
    for module in net:
        if isinstance(module, ParamRamp):
            module.set_eta(0.25)
            module.r.data.fill_(math.inf)
    leaky = nn.Sequential(
        *(nn.LeakyReLU(0.25) if isinstance(module, ParamRamp) else module for module in net)
    )
    x, y = blobs(6).pixels().double(), blobs(6).labels
    box = Box.around(x, 0.05)
    for name in ("ibp", "crown-ibp", "lbp", "crown"):
        one, other = (
            method_named(name).margins(trace(n, (1, 4, 4)).instance(), box, y) for n in (net, leaky)
        )
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    loss = METHODS["ibp"].method.loss(
        trace(net, (1, 4, 4)), x, y, Progress(step=0, epoch=1, eps=0.05, eps_max=0.1)
    )
    loss.total.backward()
    assert all(not m.r.grad.any() for m in net if isinstance(m, ParamRamp))


# --- the slope ----------------------------------------------------------------------------------


def test_the_slope_follows_the_published_schedule() -> None:
    linear = ActivationSchedule(eta_kind="linear", eta=0.01, eta_start=70, eta_length=70)
    assert [linear.slope(e) for e in (0, 70, 105, 140, 199)] == pytest.approx(
        [0.01, 0.01, 0.005, 0.0, 0.0]
    )
    smooth = dataclasses.replace(linear, eta_kind="smoothed")
    p, q = 70 // 4, 4
    a = 1.0 / ((70 - p) * q * p ** (q - 1) + p**q)
    for epochs in range(70, 140):
        t = epochs - 70
        done = a * t**q if t < p else a * p**q + (1 - a * p**q) * (t - p) / (70 - p)
        assert smooth.slope(epochs) == pytest.approx(0.01 * (1 - done), abs=1e-12)
    assert (smooth.slope(0), smooth.slope(140)) == (0.01, 0.0)
    assert ActivationSchedule(eta_kind="linear", eta=0.2).slope(99) == 0.2  # no change


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Natural training that notes the slope of each epoch, as bounds and as the module see it."""

    seen: list[tuple[int, float, float]]
    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        minus = -torch.ones(1, *graph.steps[1].shape)
        for module in graph.module.modules():
            if isinstance(module, nn.LeakyReLU | ParamRamp):
                node = next(n for n in graph.instance().nodes if isinstance(n.operator, Activation))
                assert node.operator is not None
                bounded = node.operator.forward(minus)
                self.seen.append(
                    (
                        progress.epoch,
                        -float(bounded.detach().mean()),
                        -float(module(minus).detach().mean()),
                    )
                )
                break
        return Natural().loss(graph, x, y, progress)


@pytest.mark.parametrize("make", [lambda: nn.LeakyReLU(0.5), lambda: ParamRamp((3, 4, 4), 0.5)])
def test_slopes_change_once_an_epoch_in_modules_and_bounds(make: Any) -> None:
    net = tiny_net()
    net[1] = make()
    schedule = ActivationSchedule("linear", eta=0.2, eta_end=0.1, eta_start=1, eta_length=2)
    method = Slopes([])
    fit(net, blobs(40), None, method, settings(activation=schedule))
    expected = {1: 0.2, 2: 0.2, 3: 0.15, 4: 0.1, 5: 0.1}
    assert {epoch for epoch, _, _ in method.seen} == set(expected)
    for epoch, bounded, called in method.seen:
        assert bounded == pytest.approx(expected[epoch], rel=1e-6)
        assert called == pytest.approx(expected[epoch], rel=1e-6)


# --- the range ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Natural training that notes r at every step."""

    seen: list[tuple[int, list[Tensor]]]
    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        self.seen.append((progress.step, ranges(graph.module)))
        return Natural().loss(graph, x, y, progress)


def test_the_range_becomes_the_mean_activation_at_the_end_of_the_warm_up() -> None:
    """Two natural epochs; then r_j is the mean over images of the leaky activation j."""
    chosen = settings(activation=ActivationSchedule("linear", eta=0.1, r_init="mean"))
    method, data = Ranges([]), blobs(100)
    sink = MemorySink()
    fit(ramp_net(norm=True), data, None, method, dataclasses.replace(chosen, epochs=4), sink=sink)
    steps = 5
    for step, found in method.seen:
        assert all(bool((r == math.inf).all()) == (step < 2 * steps) for r in found)
    # the weights after epoch 2, from a run that ends its second epoch in the same way
    states: list[Any] = []

    class Keep(MemorySink):
        def save_checkpoint(self, state: Any) -> None:
            super().save_checkpoint(state)
            states.append(self.state)

    fit(
        ramp_net(norm=True),
        data,
        None,
        Natural(),
        dataclasses.replace(chosen, epochs=3),
        sink=Keep(),
    )
    net = ramp_net(norm=True)
    net.load_state_dict(states[1]["weights"])
    leaky = nn.Sequential(
        *(nn.LeakyReLU(0.1) if isinstance(module, ParamRamp) else module for module in net)
    ).eval()
    expected, value = [], data.pixels()
    with torch.no_grad():
        for module in leaky:
            value = module(value)
            if isinstance(module, nn.LeakyReLU):
                expected.append(value.mean(0).clamp(min=1e-4))
    first = next(found for step, found in method.seen if step == 2 * steps)
    for r, mean in zip(first, expected, strict=True):
        torch.testing.assert_close(r, mean, rtol=1e-5, atol=1e-6)
    assert any(bool((r == 1e-4).any()) for r in first), "a neuron that is off starts at the least"


def test_the_optimiser_meets_a_fresh_range() -> None:
    """Adam's first step is lr times the sign of the gradient, if its moments are new."""
    chosen = settings(activation=ActivationSchedule(r_init="mean"), lr=1e-3)
    method = Ranges([])
    fit(ramp_net(), blobs(100), None, method, chosen)
    found = dict(method.seen)
    for before, after in zip(found[10], found[11], strict=True):
        moved = (after - before).abs()
        moved = moved[(moved > 0) & (after > 1e-4)]  # dead and clamped ranges do not move
        assert len(moved) > 0
        torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-2, atol=1e-6)


def test_ranges_stay_positive_and_do_not_decay() -> None:
    net = ramp_net()
    net[1].r.data.fill_(2e-4)
    method = Ranges([])
    fit(net, blobs(100), None, method, settings(epochs=2, lr=0.05, weight_decay=0.0))
    assert all(bool((r >= 1e-4).all()) for _, found in method.seen[1:] for r in found)
    assert bool((ranges(net)[0] == 1e-4).any()), "without the clamp some would be negative"
    idle = ramp_net()
    idle[1].r.data.fill_(50.0)  # no input reaches it, so that only decay could move it
    for optimiser in ("adam", "adamw", "sgd"):
        fit(
            idle,
            blobs(40),
            None,
            Natural(),
            settings(epochs=1, optimiser=optimiser, weight_decay=0.5),
        )
        assert bool((idle[1].r == 50.0).all())


@dataclasses.dataclass(frozen=True)
class Still:
    """A loss without gradient to r that notes r, as modules and as bounds see it."""

    seen: list[tuple[Tensor, Tensor]]
    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        bounded = [n.operator.high for n in graph.instance().nodes if hasattr(n.operator, "high")]
        self.seen.append((ranges(graph.module)[0], bounded[0].detach()))
        return Losses(graph.module[-1].bias.square().sum(), {})


def test_noise_is_one_draw_a_step_for_all_and_does_not_stay() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 500), ParamRamp((500,)), nn.Linear(500, 3))
    stored = 0.5 + torch.rand(500)
    net[2].r.data.copy_(stored)
    method = Still([])
    chosen = settings(epochs=2, activation=ActivationSchedule(noise=0.01))
    fit(net, blobs(40), None, method, chosen)
    assert torch.equal(net[2].r.detach(), stored)
    assert len(method.seen) == 4
    draws = [(seen - stored) / (0.01 * stored.mean()) for seen, _ in method.seen]
    for draw in draws:
        assert abs(float(draw.mean())) < 5 / math.sqrt(500)
        assert float(draw.std()) == pytest.approx(1.0, abs=0.15)
    assert all(torch.equal(seen, bounded) for seen, bounded in method.seen)
    assert abs(float(torch.corrcoef(torch.stack(draws[:2]))[0, 1])) < 0.2
    again = Still([])
    net[2].r.data.copy_(stored)
    fit(net, blobs(40), None, again, chosen)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(method.seen, again.seen, strict=True))


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resumed_runs_end_in_the_same_bits(stop: int) -> None:
    schedule = ActivationSchedule(
        "smoothed", eta=0.1, eta_start=1, eta_length=3, r_init="mean", noise=0.01
    )
    chosen = settings(activation=schedule, average_from=3, batch_norm="population")
    method = METHODS["crown-ibp"].method
    whole = fit(ramp_net(norm=True), blobs(), blobs(30), method, chosen)
    sink = MemorySink()
    stopped = RuntimeError("the power went")

    def cut(row: dict[str, Any]) -> None:
        if row["epoch"] == stop:
            raise stopped

    with pytest.raises(RuntimeError, match="the power went"):
        fit(ramp_net(norm=True), blobs(), blobs(30), method, chosen, sink=sink, on_epoch=cut)
    buffer = io.BytesIO()
    torch.save(sink.state, buffer)
    buffer.seek(0)
    sink.state = torch.load(buffer, weights_only=True)
    resumed = fit(
        ramp_net(9, norm=True), blobs(), blobs(30), method, chosen, sink=sink, resume=True
    )
    assert same_bits(weights(whole.model), weights(resumed.model))
    assert [r["validation"] for r in whole.rows] == [r["validation"] for r in resumed.rows]
    assert [r["loss"] for r in whole.rows] == [r["loss"] for r in resumed.rows]


def test_a_finished_run_resumed_once_more_has_the_last_slope_of_leaky_relus() -> None:
    chosen = settings(activation=ActivationSchedule("linear", eta=0.2, eta_start=0, eta_length=3))

    def leaky() -> nn.Sequential:
        net = tiny_net()
        net[1], net[4] = nn.LeakyReLU(), nn.LeakyReLU()
        return net

    sink = MemorySink()
    first = fit(leaky(), blobs(40), None, Natural(), chosen, sink=sink).model
    again = fit(leaky(), blobs(40), None, Natural(), chosen, sink=sink, resume=True).model
    assert first[1].negative_slope == again[1].negative_slope != 0.01


def test_a_run_does_not_go_on_with_more_images() -> None:
    sink, chosen = MemorySink(), settings()
    fit(tiny_net(), blobs(40), None, Natural(), chosen, sink=sink)
    more = dataclasses.replace(chosen, epochs=chosen.epochs + 1)
    with pytest.raises(RunError, match="images of the run"):
        fit(tiny_net(), blobs(96), None, Natural(), more, sink=sink, resume=True)


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "net", "more", "message"),
    [
        ({"r_init": "mean"}, tiny_net, {}, "param-ramp"),
        ({"noise": 0.1}, tiny_net, {}, "param-ramp"),
        ({"eta_kind": "linear"}, tiny_net, {}, "leaky-relu"),
        ({"r_init": "mean"}, ramp_net, {"eps": 0.0}, "eps begins to grow"),
        ({"r_init": "mean"}, ramp_net, {"average_from": 1}, "average later"),
    ],
)
def test_what_the_model_or_the_run_lacks_is_said(
    fields: dict[str, Any], net: Any, more: dict[str, Any], message: str
) -> None:
    chosen = settings(activation=ActivationSchedule(**fields), **more)
    with pytest.raises(ConfigError, match=message):
        fit(net(), blobs(40), None, Natural(), chosen)


@pytest.mark.parametrize(
    "fields",
    [{"eta": 1.5}, {"eta_end": -0.1}, {"eta_kind": "cubic"}, {"r_init": "median"},
     {"noise": math.nan}, {"eta_start": -1}, {"eta_length": -1}],
)  # fmt: skip
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"activation.{next(iter(fields))}"):
        ActivationSchedule(**fields)


def test_without_slope_and_range_a_ramp_is_constant() -> None:
    """eta = 0 and r -> 0: the values and all interval bounds go to 0."""
    ramp = ParamRamp((6,), eta=0.0, r=1e-4)
    net = trace(nn.Sequential(nn.Linear(4, 6), ramp, nn.Linear(6, 3)), (4,)).instance()
    x = torch.rand(5, 4)
    known = interval.propagate(net, Box.around(x, 0.3))
    bounds = known.at(2)
    assert bool((bounds.lower >= -1e-12).all())
    assert bool((bounds.upper <= 1e-4 + 1e-12).all())
