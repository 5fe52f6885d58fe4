"""Parameters, activations and flat sizes: against the literature and arithmetic of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from taut import models

GREY, COLOUR, TINY, LARGE = (1, 28, 28), (3, 32, 32), (3, 56, 56), (3, 224, 224)

# Flat size, ReLU activations and parameters as printed for 28x28x1 and 32x32x3. The networks
# were published as layer lists; these counts follow from them by hand.
PRINTED = {
    "dm-small-valid": [(3200, 6_004, "330k"), (4608, 8_308, "471k")],
    "dm-small-p1": [(5408, 8_644, "550k"), (7200, 11_396, "730k")],
    "dm-small-p2": [(8192, 11_892, "829k"), (10368, 15_092, "1.05M")],
    "dm-small-gm": [(2704, 4_528, "697k"), (3600, 5_904, "927k")],
    "dm-small-crown8-16": [(784, 2_608, "206k"), (1024, 3_328, "267k")],
    "crown-2layer-w2": [(784, 2_608, "206k"), (1024, 3_328, "267k")],
    "dm-medium-valid": [(1024, 34_688, "893k"), (1600, 46_912, "1.19M")],
    "dm-medium-p1": [(3136, 48_064, "1.97M"), (4096, 62_464, "2.47M")],
    "dm-medium-p2": [(4096, 51_808, "2.47M"), (5184, 66_720, "3.02M")],
    "dm-large": [(25088, 176_128, "13.3M"), (32768, 229_888, "17.2M")],
}

# The layer lists of the stacks, written out; W stands for batch norm after every layer, C for
# batch norm after the convolutions alone.
LAYERS = {
    "dm-small-valid": "16@4/2/0 32@4/1/0 FC100",
    "dm-small-p1": "16@4/2/1 32@4/1/1 FC100",
    "dm-small-p2": "16@4/2/2 32@4/1/2 FC100",
    "dm-small-gm": "8@4/2/1 16@4/1/1 FC256",
    "dm-small-crown8-16": "8@4/2/1 16@4/2/1 FC256",
    "dm-medium-valid": "32@3/1/0 32@4/2/0 64@3/1/0 64@4/2/0 FC512 FC512",
    "dm-medium-p1": "32@3/1/1 32@4/2/1 64@3/1/1 64@4/2/1 FC512 FC512",
    "dm-medium-p2": "32@3/1/1 32@4/2/2 64@3/1/1 64@4/2/2 FC512 FC512",
    "dm-large": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/1/1 FC512",
    "crown-2layer-w1": "4@4/2/1 8@4/2/1 FC128",
    "crown-2layer-w2": "8@4/2/1 16@4/2/1 FC256",
    "crown-4layer-w1-fc256": "4@3/1/1 4@4/2/1 8@3/1/1 8@4/2/1 FC256 FC256",
    "crown-4layer-w1-fc512": "4@3/1/1 4@4/2/1 8@3/1/1 8@4/2/1 FC512 FC512",
    "crown-4layer-w2-fc256": "8@3/1/1 8@4/2/1 16@3/1/1 16@4/2/1 FC256 FC256",
    "crown-4layer-w2-fc512": "8@3/1/1 8@4/2/1 16@3/1/1 16@4/2/1 FC512 FC512",
    "crown-3layer-k3-w1": "4@3/1/1 8@3/1/1 8@4/4/0 FC64",
    "crown-3layer-k3-w2": "8@3/1/1 16@3/1/1 16@4/4/0 FC128",
    "crown-3layer-k5-w1": "4@5/1/1 8@5/1/1 8@4/4/0 FC64",
    "crown-3layer-k5-w2": "8@5/1/1 16@5/1/1 16@4/4/0 FC128",
    "advibp-2layer-w2": "8@4/2/1 16@4/1/1 FC512",
    "advibp-2layer-w4": "16@4/2/1 32@4/1/1 FC512",
    "advibp-2layer-w8": "32@4/2/1 64@4/1/1 FC512",
    "advibp-2layer-new-w2": "8@3/2/0 16@3/1/0 FC100",
    "advibp-2layer-new-w4": "16@3/2/0 32@3/1/0 FC100",
    "advibp-2layer-new-w8": "32@3/2/0 64@3/1/0 FC100",
    "advibp-4layer-w2": "8@3/1/1 8@4/2/1 16@3/1/1 16@4/2/1 FC512 FC512",
    "advibp-4layer-w4": "16@3/1/1 16@4/2/1 32@3/1/1 32@4/2/1 FC512 FC512",
    "advibp-4layer-new-w2": "8@3/2/0 16@3/1/0 32@3/1/0 64@3/1/0 FC512 FC512",
    "advibp-4layer-new-w4": "16@3/2/0 32@3/1/0 64@3/1/0 128@3/1/0 FC512 FC512",
    "advibp-large-new": "64@3/2/0 64@3/1/0 128@3/1/0 256@3/1/0 256@3/1/0 FC512",
    "cnn7": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/1/1 FC512 W",
    "cnn7-nobn": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/1/1 FC512",
    "cnn7-xu": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/1/1 FC512 C",
    "cnn7-narrow": "32@3/1/1 32@3/1/1 64@3/2/1 64@3/1/1 64@3/1/1 FC216 W",
    "cnn7-wide": "96@3/1/1 96@3/1/1 192@3/2/1 192@3/1/1 192@3/1/1 FC512 W",
    "cnn7-tiny-sabr": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/1/1 FC512 W",
    "cnn7-tiny-xu": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/2/1 FC512 C",
    "cnn7-tiny-shi": "64@3/1/1 64@3/1/1 128@3/2/1 128@3/1/1 128@3/2/1 FC512 W",
    "fc3": "FC512",
    "fc3-sigmoid": "FC512",
    "fc3-tanh": "FC512",
    "fc5": "FC512 FC128",
    "fc5-sigmoid": "FC512 FC128",
    "fc5-tanh": "FC512 FC128",
}


def printed(count: int) -> str:
    """Three significant digits, as the table prints parameters."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M" if count >= 10_000_000 else f"{count / 1e6:.2f}M"


def conv(before: int, filters: int, kernel: int, groups: int = 1, bias: bool = True) -> int:
    return filters * (before // groups * kernel**2 + bias)


def fc(before: int, units: int) -> int:
    return units * (before + 1)


def counted(layers: str, shape: tuple[int, int, int], classes: int) -> models.Size:
    """The size of a stack from its layer list alone."""
    words = layers.split()
    wide = words[-1] in "WC"
    channels, height, width = shape
    parameters = activations = 0
    for filters, kernel, stride, padding in (
        map(int, re.split("[@/]", word)) for word in words if "@" in word
    ):
        parameters += conv(channels, filters, kernel) + wide * 2 * filters
        channels = filters
        height, width = (
            math.floor((n + 2 * padding - kernel) / stride) + 1 for n in (height, width)
        )
        activations += channels * height * width
    units = flat = channels * height * width
    for word in words:
        if word.startswith("FC"):
            parameters += fc(units, int(word[2:])) + (words[-1] == "W") * 2 * int(word[2:])
            units = int(word[2:])
            activations += units
    return models.Size(parameters + fc(units, classes), activations, flat)


@pytest.mark.parametrize("name", PRINTED)
def test_sizes_are_those_of_the_table(name: str) -> None:
    for shape, expected in zip((GREY, COLOUR), PRINTED[name], strict=True):
        found = models.size(name, shape, 10)
        assert (found.flat, found.activations, printed(found.parameters)) == expected


@pytest.mark.parametrize("name", LAYERS)
def test_stacks_are_counted_as_their_layer_lists(name: str) -> None:
    for shape, classes in ((GREY, 10), (COLOUR, 10), ((2, 30, 41), 7)):
        assert models.size(name, shape, classes) == counted(LAYERS[name], shape, classes)
    text = models.MODELS[name].layers.split(", ")
    norm = {"W": ["batch norm after each"], "C": ["batch norm after each convolution"]}
    words = LAYERS[name].split()
    activation = models.MODELS[name].activation
    suffix = [] if activation == "relu" else [f"{activation} after each"]
    assert text == [w for w in words if w not in "WC"] + norm.get(words[-1], []) + suffix


def test_every_network_is_counted_here() -> None:
    assert {*LAYERS, *BRANCHING} == set(models.MODELS)


@pytest.mark.parametrize(
    ("name", "shape", "flat", "classes"),
    [
        ("cnn7-tiny-sabr", (3, 56, 56), 100_352, 200),
        ("cnn7-tiny-xu", (3, 56, 56), 25_088, 200),
        ("cnn7-tiny-shi", (3, 64, 64), 32_768, 200),
        ("wide-resnet-tiny", (3, 56, 56), 2_560, 200),
        ("wide-resnet-cifar", (3, 32, 32), 32_768, 10),
        ("wide-resnet-shi", (3, 32, 32), 32_768, 10),
        ("resnext-tiny", (3, 56, 56), 25_088, 200),
        ("resnext-cifar", (3, 32, 32), 32_768, 10),
        ("resnext-shi", (3, 32, 32), 32_768, 10),
        ("densenet-tiny", (3, 56, 56), 43_904, 200),
        ("densenet-cifar", (3, 32, 32), 14_336, 10),
    ],
)
def test_published_defaults_and_flat_sizes(
    name: str, shape: tuple[int, ...], flat: int, classes: int
) -> None:
    entry = models.MODELS[name]
    assert (entry.input_shape, entry.classes) == (shape, classes)
    assert models.size(name).flat == flat


def wide_resnet(widths: tuple[int, ...], second: bool, head: int) -> int:
    total, before = conv(3, 16, 3), 16
    for width in widths:
        total += 2 * before + conv(before, width, 3) + second * 2 * width
        total += conv(width, width, 3) + conv(before, width, 1)
        before = width
    return total + second * 2 * before + head


def resnext(stem: int, blocks: int, widths: tuple[int, ...], every: bool, head: int) -> int:
    total, before = conv(3, stem, 3) + every * 2 * stem, stem
    for g in widths:
        for place in range(blocks):
            total += conv(before, g, 1) + 2 * g + conv(g, g, 3, groups=2) + conv(g, 2 * g, 1)
            total += every * (2 * g + 4 * g)
            if place == 0:
                total += conv(before, 2 * g, 1) + every * 4 * g
            before = 2 * g
    return total + head


def densenet(head: int) -> int:
    total = conv(3, 64, 3)
    for channels in (64, 96, 64, 96, 128, 160, 96, 128, 160, 192):
        total += 2 * channels + conv(channels, 128, 1) + 256 + conv(128, 32, 3)
    for channels in (128, 192):
        total += 2 * channels + conv(channels, channels // 2, 1)
    return total + 2 * 224 + head


def inception() -> int:
    total = conv(3, 64, 7) + conv(64, 64, 1) + conv(64, 192, 3)
    before = 192
    for one, small, three, tiny, five, pool in INCEPTION:
        total += conv(before, one, 1) + conv(before, small, 1) + conv(small, three, 3)
        total += conv(before, tiny, 1) + conv(tiny, five, 5) + conv(before, pool, 1)
        before = one + three + five + pool
    return total + fc(1024, 1000)


# Szegedy et al., Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj of 3a to 5b.
INCEPTION = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def two(flat: int, units: int, classes: int, norm: bool = False) -> int:
    return fc(flat, units) + norm * 2 * units + fc(units, classes)


def squares(*pairs: tuple[int, int]) -> int:
    """Sum of channels times the square of the extent, of each activation's input."""
    return sum(channels * extent**2 for channels, extent in pairs)


def dense_relus(extent: int) -> int:
    total = 0
    stages = ((64, 96), (64, 96, 128, 160), (96, 128, 160, 192))
    for n, stage in zip((extent, extent // 2, extent // 4), stages, strict=True):
        total += squares(*((channels, n) for channels in stage), *[(128, n)] * len(stage))
    return total + squares((128, extent), (192, extent // 2), (224, extent // 4)) + 512


def inception_relus() -> int:
    total = squares((64, 112), (64, 56), (192, 56))
    for row, extent in zip(INCEPTION, (28, 28, 14, 14, 14, 14, 14, 7, 7), strict=True):
        total += sum(row) * extent**2
    return total


BRANCHING: dict[str, tuple[Callable[[], int], int]] = {
    "wide-resnet-tiny": (
        lambda: wide_resnet((160, 320, 640), True, fc(2560, 200)),
        squares((16, 56), (160, 56), (160, 56), (320, 56), (320, 28), (640, 28), (640, 14)),
    ),
    "wide-resnet-cifar": (
        lambda: wide_resnet((128, 256, 512), False, two(32768, 512, 10)),
        squares((16, 32), (128, 32), (128, 32), (256, 32), (256, 16), (512, 16), (512, 8)) + 512,
    ),
    "wide-resnet-shi": (
        lambda: (
            wide_resnet((128, 256, 512), True, two(32768, 512, 10, norm=True))
            # A BN after the first convolution and on each shortcut, none before a block or after
            # the blocks; the first BN of a block normalises what its first convolution gives.
            + 2 * (128 + 256 + 512)
            + (2 * 16 - 2 * 512)
            + 2 * (128 - 16 + 256 - 128 + 512 - 256)
        ),
        squares((16, 32), (128, 32), (128, 32), (256, 16), (256, 16), (512, 8), (512, 8)) + 512,
    ),
    "resnext-tiny": (
        lambda: resnext(16, 2, (16, 32, 64), False, two(25088, 512, 200)),
        # g after the first convolution, g after the second, 2g after the sum, twice a stage; the
        # first convolution of a strided block works before the stride.
        squares((16, 56), *[(16, 56), (16, 56), (32, 56)] * 2)
        + squares((32, 56), (32, 28), (64, 28), (32, 28), (32, 28), (64, 28))
        + squares((64, 28), (64, 14), (128, 14), (64, 14), (64, 14), (128, 14))
        + 512,
    ),
    "resnext-cifar": (
        lambda: resnext(16, 1, (64, 128, 256), False, two(32768, 512, 10)),
        squares((16, 32), (64, 32), (64, 32), (128, 32))
        + squares((128, 32), (128, 16), (256, 16), (256, 16), (256, 8), (512, 8))
        + 512,
    ),
    "resnext-shi": (
        lambda: resnext(64, 1, (64, 128, 256), True, two(32768, 512, 10, norm=True)),
        squares((64, 32), (64, 32), (64, 32), (128, 32))
        + squares((128, 32), (128, 16), (256, 16), (256, 16), (256, 8), (512, 8))
        + 512,
    ),
    "densenet-tiny": (lambda: densenet(two(43904, 512, 200)), dense_relus(56)),
    "densenet-cifar": (lambda: densenet(two(14336, 512, 10)), dense_relus(32)),
    # The published numbers of the large networks.
    "resnet18": (
        lambda: 11_689_512,
        squares((64, 112), *[(64, 56)] * 4, *[(128, 28)] * 4, *[(256, 14)] * 4, *[(512, 7)] * 4),
    ),
    "alexnet": (
        lambda: 61_100_840,
        squares((64, 55), (192, 27), (384, 13), (256, 13), (256, 13)) + 2 * 4096,
    ),
    "vgg11": (
        lambda: 132_863_336,
        squares((64, 224), (128, 112), (256, 56), (256, 56), (512, 28), (512, 28))
        + squares((512, 14), (512, 14))
        + 2 * 4096,
    ),
    "inception-v1": (inception, inception_relus()),
}


@pytest.mark.parametrize("name", BRANCHING)
def test_branching_networks_are_counted_by_hand(name: str) -> None:
    parameters, activations = BRANCHING[name]
    found = models.size(name)
    assert found.parameters == parameters()
    assert found.activations == activations


@pytest.mark.parametrize("name", models.MODELS)
def test_size_agrees_with_the_built_network(name: str) -> None:
    entry = models.MODELS[name]
    inputs: list[int] = []
    flat: list[int] = []
    with torch.device("meta"):
        net = models.build(name).eval()
        for layer in net.modules():
            if isinstance(layer, nn.ReLU | nn.Sigmoid | nn.Tanh):
                layer.register_forward_hook(lambda _m, args, _out: inputs.append(args[0].numel()))
            elif isinstance(layer, nn.Flatten):
                layer.register_forward_hook(lambda _m, _args, out: flat.append(out.numel()))
        net(torch.empty(1, *entry.input_shape))
    found = models.size(name)
    assert found.activations == sum(inputs)
    assert [found.flat] == flat
    assert found.parameters == sum(p.numel() for p in net.parameters())
