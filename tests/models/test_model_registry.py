"""Building by name: shapes, defaults, small versions, and the errors of the registry."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

from taut import models
from taut.errors import ConfigError

COLOUR = (3, 32, 32)
NAMES = list(models.MODELS)


def test_cnn7_is_dm_large_with_batch_norm_before_every_relu():
    plain, normed = models.size("cnn7-nobn", COLOUR), models.size("cnn7", COLOUR)
    large = models.size("dm-large", COLOUR)
    assert plain == large
    assert (normed.flat, normed.activations) == (large.flat, large.activations)
    # A batch norm has two numbers per channel.
    assert normed.parameters - large.parameters == 2 * (64 + 64 + 3 * 128 + 512)
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    with torch.device("meta"):
        cnn7, xu = models.build("cnn7"), models.build("cnn7-xu")
    head = [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in cnn7] == [*block * 5, *head]
    head.remove(nn.BatchNorm1d)
    assert [type(layer) for layer in xu] == [*block * 5, *head]


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_a_sequential_for_any_shape_and_classes(name):
    entry = models.MODELS[name]
    assert entry.name == name
    large = entry.input_shape[1] > 200
    with torch.device("meta"):
        net = models.build(name)
        assert type(net) is nn.Sequential
        assert net(torch.empty(2, *entry.input_shape)).shape == (2, entry.classes)
        for classes in (2, 43):
            shape = (2, 75, 90) if large else (2, 30, 33)
            other = models.build(name, shape, classes)
            assert other(torch.empty(3, *shape)).shape == (3, classes)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert all((c.bias is None) == (name == "resnet18") for c in convolutions)
    assert all(c.padding_mode == "zeros" for c in convolutions)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert ("batch norm" in entry.layers or "BN" in entry.layers) == bool(norms)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.classes = 3


@pytest.mark.parametrize("name", NAMES)
def test_small_versions_are_small_and_of_the_same_kinds_of_layers(name):
    entry, net = models.MODELS[name], models.small(name)
    with torch.device("meta"):
        full = models.build(name)
    assert net(torch.rand(4, *entry.small_shape)).shape == (4, 3)
    assert sum(p.numel() for p in net.parameters()) < 1500
    assert {type(m) for m in net.modules()} == {type(m) for m in full.modules()}


WINDOWED = [name for name in NAMES if not re.search("res|dense|inception", name)]


@pytest.mark.parametrize("name", WINDOWED)
def test_small_versions_have_the_windows_of_the_network(name):
    with torch.device("meta"):
        ours, theirs = (
            [
                (type(m), m.kernel_size, m.stride, m.padding)
                for m in net.modules()
                if isinstance(m, nn.Conv2d | nn.MaxPool2d)
            ]
            for net in (models.small(name), models.build(name))
        )
    assert ours == (theirs[: len(ours)] if name == "vgg11" else theirs)


@pytest.mark.parametrize("name", NAMES)
def test_small_versions_trace_and_train(name):
    torch.manual_seed(0)
    net = models.small(name).double()
    traced = torch.fx.symbolic_trace(net)
    x = torch.rand(4, *models.MODELS[name].small_shape, dtype=torch.float64)
    torch.testing.assert_close(traced.eval()(x), net.eval()(x))
    net.train()(x).square().sum().backward()
    # A bias before batch normalisation has gradient zero up to rounding, but it has one.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_weights_depend_on_the_seed_alone():
    first, second = models.build("dm-small-p1"), models.build("dm-small-p1")
    assert first[0].weight.data_ptr() != second[0].weight.data_ptr()
    assert not torch.equal(first[0].weight, second[0].weight)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.small("resnext-tiny").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_doubled_input_needs_twice_the_channels_and_nothing_else():
    single, double = models.size("fc3", (1, 28, 28)), models.size("fc3", (2, 28, 28))
    assert double.flat == 2 * single.flat == 1568
    assert double.parameters - single.parameters == 784 * 512


def test_unknown_name_lists_the_names():
    for call in (models.build, models.size, models.small):
        with pytest.raises(ConfigError, match="no model is called 'dm-smal'") as caught:
            call("dm-smal")
        assert all(name in str(caught.value) for name in models.MODELS)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"input_shape": (28, 28)}, "three positive integers"),
        ({"input_shape": (1, 28, 0)}, "three positive integers"),
        ({"input_shape": (1, 28.0, 28)}, "three positive integers"),
        ({"input_shape": (1, 4, 4)}, "too small"),
        ({"classes": 1}, "at least 2"),
        ({"mean": [0.5]}, "together"),
        ({"mean": [0.5] * 3, "std": [0.2] * 3}, "1 channel"),
        ({"mean": [0.5], "std": [0.0]}, "positive"),
        ({"mean": [float("nan")], "std": [1.0]}, "finite"),
        ({"mean": [0.5], "std": [1.0, 1.0]}, "std has 2"),
        ({"activation": "rleu"}, "no activation is called 'rleu'; choose one of relu, "),
        ({"activation": lambda shape: 3}, "the activation made a int"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        models.build("dm-small-valid", **kwargs)


@pytest.mark.parametrize(
    ("name", "smallest", "layer"),
    [
        # The extents of the layers, backwards from one pixel.
        ("dm-medium-valid", 16, "convolution 64@4/2/0"),
        ("crown-3layer-k5-w1", 8, "convolution 8@4/4/0"),
        ("advibp-4layer-new-w2", 15, "convolution 64@3/1/0"),
        ("advibp-large-new", 19, "convolution 256@3/1/0"),
        ("wide-resnet-tiny", 25, "pooling 7/7/0"),
        ("densenet-cifar", 4, "pooling 2/2/0"),
        ("vgg11", 32, "pooling 2/2/0"),
        ("alexnet", 63, "pooling 3/2/0"),
    ],
)
def test_the_smallest_images(name, smallest, layer):
    with torch.device("meta"):
        net = models.build(name, (3, smallest, smallest + 2), 10)
        assert net(torch.empty(2, 3, smallest, smallest + 2)).shape == (2, 10)
        for shape in ((3, smallest - 1, smallest), (3, smallest, smallest - 1)):
            with pytest.raises(ConfigError, match=f"too small.*nothing is left after its {layer};"):
                models.build(name, shape, 10)


def passes_or_is_refused(name, extent):
    try:
        net = models.build(name, (1, extent, extent), 2).eval()
    except ConfigError as error:
        return "are too small for this network" in str(error)
    return net(torch.empty(2, 1, extent, extent)).shape == (2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_too_small_or_it_passes(name):
    with torch.device("meta"):
        assert all(passes_or_is_refused(name, extent) for extent in (1, 6, 17))
