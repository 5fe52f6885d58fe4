"""Sizes against the literature's table, defaults, and the errors of the registry."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from taut import models
from taut.errors import ConfigError

GREY, COLOUR = (1, 28, 28), (3, 32, 32)

# Flat size, ReLU activations and parameters as printed for 28x28x1 and 32x32x3. The networks
# were published as layer lists; these counts follow from them by hand.
PRINTED = {
    "dm-small-valid": [(3200, 6_004, "330k"), (4608, 8_308, "471k")],
    "dm-small-p1": [(5408, 8_644, "550k"), (7200, 11_396, "730k")],
    "dm-small-p2": [(8192, 11_892, "829k"), (10368, 15_092, "1.05M")],
    "dm-small-crown8-16": [(784, 2_608, "206k"), (1024, 3_328, "267k")],
    "dm-medium-valid": [(1024, 34_688, "893k"), (1600, 46_912, "1.19M")],
    "dm-medium-p1": [(3136, 48_064, "1.97M"), (4096, 62_464, "2.47M")],
    "dm-medium-p2": [(4096, 51_808, "2.47M"), (5184, 66_720, "3.02M")],
    "dm-large": [(25088, 176_128, "13.3M"), (32768, 229_888, "17.2M")],
}


def printed(count: int) -> str:
    """Three significant digits, as the table prints parameters."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M" if count >= 10_000_000 else f"{count / 1e6:.2f}M"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (name, shape, row)
        for name, rows in PRINTED.items()
        for shape, row in zip((GREY, COLOUR), rows, strict=True)
    ],
)
def test_sizes_are_those_of_the_table(name, shape, expected):
    found = models.size(name, shape, 10)
    assert (found.flat, found.activations, printed(found.parameters)) == expected


def test_the_stride_two_one_variant_of_the_small_crown_net():
    """The net that one paper's table prints as 8@4/2, 16@4/1, FC256 (padding 1)."""
    for shape, flat, parameters in ((GREY, 2704, "697k"), (COLOUR, 3600, "927k")):
        net = models.dm_small(shape, 10, filters=(8, 16), strides=(2, 1), padding=1, fc=256)
        assert net[5].in_features == flat
        assert printed(sum(p.numel() for p in net.parameters())) == parameters


def test_cnn7_is_dm_large_with_batch_norm_before_every_relu():
    plain, normed = models.size("cnn7-nobn", COLOUR), models.size("cnn7", COLOUR)
    large = models.size("dm-large", COLOUR)
    assert plain == large
    assert (normed.flat, normed.activations) == (large.flat, large.activations)
    # A batch norm has two numbers per channel.
    assert normed.parameters - large.parameters == 2 * (64 + 64 + 3 * 128 + 512)
    kinds = [type(layer) for layer in models.build("cnn7")]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*block * 5, nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("name", "filters", "fc"), [("cnn7-narrow", (32, 64), 216), ("cnn7-wide", (96, 192), 512)]
)
def test_width_variants_of_cnn7(name, filters, fc):
    net = models.build(name)
    widths = [layer.out_channels for layer in net if isinstance(layer, nn.Conv2d)]
    assert widths == [filters[0]] * 2 + [filters[1]] * 3
    assert [layer.out_features for layer in net if isinstance(layer, nn.Linear)] == [fc, 10]


@pytest.mark.parametrize("name", list(models.MODELS))
def test_every_entry_is_plain_sequential_and_agrees_with_its_description(name):
    entry = models.MODELS[name]
    assert entry.name == name
    with torch.device("meta"):
        net = models.build(name)
        assert type(net) is nn.Sequential
        assert net(torch.empty(2, *entry.input_shape)).shape == (2, entry.classes)
        for classes in (2, 43):
            other = models.build(name, (2, 30, 33), classes)
            assert other(torch.empty(3, 2, 30, 33)).shape == (3, classes)
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    text = [
        f"{c.out_channels}@{c.kernel_size[0]}/{c.stride[0]}/{c.padding[0]}" for c in convolutions
    ]
    hidden = [f"FC{layer.out_features}" for layer in net if isinstance(layer, nn.Linear)][:-1]
    assert entry.layers.startswith(", ".join(text + hidden))
    assert all(c.bias is not None and c.padding_mode == "zeros" for c in convolutions)
    assert ("batch norm" in entry.layers) == any(isinstance(m, nn.BatchNorm2d) for m in net)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.classes = 3


def test_size_agrees_with_the_built_network():
    net = models.build("dm-small-p1")
    found = models.size("dm-small-p1")
    inputs = []
    for layer in net:
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _m, args, _out: inputs.append(args[0].shape[1:]))
    net(torch.zeros(1, 1, 28, 28))
    assert found.activations == sum(shape.numel() for shape in inputs)
    assert found.parameters == sum(p.numel() for p in net.parameters())


def test_builds_are_independent():
    first, second = models.build("dm-small-p1"), models.build("dm-small-p1")
    assert first[0].weight.data_ptr() != second[0].weight.data_ptr()
    assert not torch.equal(first[0].weight, second[0].weight)


def test_unknown_name_lists_the_names():
    with pytest.raises(ConfigError, match="dm-smal") as caught:
        models.build("dm-smal")
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
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        models.build("dm-small-valid", **kwargs)
