"""Every network of the zoo, at small width, under the methods; the large ones at full size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taut import models
from taut.bounds import IBP, Backward, BoundMethod
from taut.graph import trace
from taut.property import true_margins
from taut.region import Box
from tests.soundness.harness import (
    LARGE,
    TOLERANCE,
    evaluate,
    generator,
    least_margins,
    points_of,
    uniform,
)

METHODS: dict[str, BoundMethod] = {
    "ibp": IBP(),
    "crown-ibp": Backward("ibp"),
    "lbp": Backward("lbp", "tight", 1),
    "crown": Backward("crown", "adaptive"),
}


def small(name: str, activation: str | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        net = (
            models.small(name) if activation is None else models.small(name, activation=activation)
        )
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.double().eval()


def assert_bounded(net: nn.Module, shape: tuple[int, ...], methods: list[str], eps: float) -> None:
    x = uniform(generator(1), 2, *shape)
    traced, box = trace(net, shape).instance().detached(), Box.around(x, eps)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), net(x), rtol=1e-9, atol=1e-9)
        logits = evaluate(traced, points_of(box, generator(2), 100))
        y = net(x).argmax(1)
        least = least_margins(logits, y)
        slack = TOLERANCE * (1 + logits.abs().amax())
        for method in methods:
            found = METHODS[method].margins(traced, box, y)
            assert bool((found <= least + slack).all()), method
            point = METHODS[method].margins(traced, Box.around(x, 0.0), y)
            torch.testing.assert_close(point, true_margins(net(x), y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_is_traced_and_bounded(name: str) -> None:
    assert_bounded(small(name), models.MODELS[name].small_shape, ["ibp", "crown-ibp"], 0.02)


@pytest.mark.parametrize(
    "name",
    ["dm-small-p1", "cnn7", "wide-resnet-cifar", "resnext-tiny", "densenet-cifar", "resnet18",
     "inception-v1", "fc5-tanh"],
)  # fmt: skip
def test_families_under_the_dear_methods(name: str) -> None:
    assert_bounded(small(name), models.MODELS[name].small_shape, ["lbp", "crown"], 0.02)


@pytest.mark.parametrize("activation", ["leaky-relu", "param-ramp", "sigmoid"])
@pytest.mark.parametrize("name", ["dm-medium-p2", "wide-resnet-shi"])
def test_families_with_other_activations(name: str, activation: str) -> None:
    methods = ["ibp", "crown-ibp", "crown"]
    assert_bounded(small(name, activation), models.MODELS[name].small_shape, methods, 0.02)


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_get_interval_bounds_at_full_size(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.build(name, (3, 224, 224), 1000).eval()
    x = torch.rand(1, 3, 224, 224, generator=generator(3))
    box = Box.around(x, 1 / 255)
    with torch.no_grad():
        traced = trace(net, (3, 224, 224)).instance()
        bounds, logits = IBP().outputs(traced, box), net(x)
        torch.testing.assert_close(traced(x), logits, rtol=1e-4, atol=1e-5)
        corner = net(
            torch.where(torch.rand(x.shape, generator=generator(4)) < 0.5, box.lower, box.upper)
        )
    slack = 1e-4 * (1 + logits.abs().amax())
    for value in (logits, corner):
        assert bool((bounds.lower <= value + slack).all())
        assert bool((bounds.upper >= value - slack).all())
    assert bool(torch.isfinite(bounds.lower).all())
