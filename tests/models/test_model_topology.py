"""Networks with branches, against their forward passes written out with functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut import models


@dataclass
class Layers:
    """The weights of a network, one after another, whatever connects them.

    Strides, paddings and groups are not read from the network: the test says them.
    """

    convolutions: Iterator[nn.Conv2d]
    norms: Iterator[nn.BatchNorm2d]
    linears: Iterator[nn.Linear]

    @classmethod
    def of(cls, net: nn.Module) -> Layers:
        def kind(cls: type) -> Iterator:
            return iter([m for m in net.modules() if isinstance(m, cls)])

        return cls(kind(nn.Conv2d), kind(nn.BatchNorm2d | nn.BatchNorm1d), kind(nn.Linear))

    def conv(self, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        layer = next(self.convolutions)
        return F.conv2d(x, layer.weight, layer.bias, stride, padding, groups=groups)

    def norm(self, x: Tensor) -> Tensor:
        n = next(self.norms)
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5)

    def linear(self, x: Tensor) -> Tensor:
        layer = next(self.linears)
        return x @ layer.weight.T + layer.bias

    def spent(self) -> bool:
        return not [*self.convolutions, *self.norms, *self.linears]


def prepared(name: str, extent: int) -> tuple[nn.Module, Layers, Tensor]:
    """A small network in float64 with statistics and affine parameters drawn at random."""
    torch.manual_seed(0)
    entry = models.MODELS[name]
    shape = (entry.small_shape[0], extent, extent)
    net = entry.factory(shape, 3, activation="relu", **entry.narrow).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return net, Layers.of(net), torch.rand(2, *shape, dtype=torch.float64)


def agree(net: nn.Module, layers: Layers, x: Tensor, expected: Tensor) -> None:
    assert layers.spent(), "the test has used every layer"
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["wide-resnet-tiny", "wide-resnet-cifar"])
@pytest.mark.parametrize("extent", [8, 9])
def test_wide_resnets_of_xu(name: str, extent: int) -> None:
    net, layers, x = prepared(name, extent)
    tiny = name == "wide-resnet-tiny"
    h = layers.conv(x, 1, 1)
    for stride in (1, 2, 2):
        body = layers.conv(F.relu(layers.norm(h)), 1, 1)
        body = F.relu(layers.norm(body) if tiny else body)
        h = layers.conv(body, stride, 1) + layers.conv(h, stride)
    h = F.relu(layers.norm(h)) if tiny else F.relu(h)
    if tiny:
        agree(net, layers, x, layers.linear(F.avg_pool2d(h, 2).flatten(1)))
    else:
        agree(net, layers, x, layers.linear(F.relu(layers.linear(h.flatten(1)))))


@pytest.mark.parametrize("name", ["resnext-tiny", "resnext-cifar", "resnext-shi"])
@pytest.mark.parametrize("extent", [8, 9])
def test_resnexts(name: str, extent: int) -> None:
    net, layers, x = prepared(name, extent)
    norm = layers.norm if name == "resnext-shi" else lambda value: value
    h = F.relu(norm(layers.conv(x, 1, 1)))
    for stage in (1, 2, 2):
        for place in range(2 if name == "resnext-tiny" else 1):
            stride = stage if place == 0 else 1
            body = F.relu(layers.norm(layers.conv(h)))
            body = F.relu(norm(layers.conv(body, stride, 1, groups=2)))
            body = norm(layers.conv(body))
            h = F.relu(body + (norm(layers.conv(h, stride)) if place == 0 else h))
    h = F.relu(norm(layers.linear(h.flatten(1))))
    agree(net, layers, x, layers.linear(h))


@pytest.mark.parametrize("extent", [8, 9])
def test_the_wide_resnet_of_shi(extent: int) -> None:
    net, layers, x = prepared("wide-resnet-shi", extent)
    h = F.relu(layers.norm(layers.conv(x, 1, 1)))
    for stride in (1, 2, 2):
        body = F.relu(layers.norm(layers.conv(h, stride, 1)))
        body = layers.norm(layers.conv(body, 1, 1))
        h = F.relu(body + layers.norm(layers.conv(h, stride)))
    h = F.relu(layers.norm(layers.linear(h.flatten(1))))
    agree(net, layers, x, layers.linear(h))


@pytest.mark.parametrize("name", ["densenet-tiny", "densenet-cifar"])
def test_densenets_put_new_channels_first(name: str) -> None:
    net, layers, x = prepared(name, 9)
    h = layers.conv(x, 1, 1)
    for place, count in enumerate((1, 2, 1)):
        if place:
            h = F.avg_pool2d(layers.conv(F.relu(layers.norm(h))), 2)
        for _ in range(count):
            new = layers.conv(F.relu(layers.norm(h)))
            new = layers.conv(F.relu(layers.norm(new)), 1, 1)
            h = torch.cat([new, h], 1)
    h = F.relu(layers.linear(F.relu(layers.norm(h)).flatten(1)))
    agree(net, layers, x, layers.linear(h))


def test_resnet18() -> None:
    net, layers, x = prepared("resnet18", 21)
    h = F.max_pool2d(F.relu(layers.norm(layers.conv(x, 2, 3))), 3, 2, 1)
    for first, stride in ((True, 1), (False, 1), (True, 2), (False, 1)):
        body = F.relu(layers.norm(layers.conv(h, stride, 1)))
        body = layers.norm(layers.conv(body, 1, 1))
        changed = first and stride == 2
        h = F.relu(body + (layers.norm(layers.conv(h, stride)) if changed else h))
    agree(net, layers, x, layers.linear(h.mean((2, 3))))


def test_inception_v1() -> None:
    net, layers, x = prepared("inception-v1", 21)
    h = F.max_pool2d(F.relu(layers.conv(x, 2, 3)), 3, 2, 1)
    h = F.relu(layers.conv(F.relu(layers.conv(h)), 1, 1))
    for _ in range(2):
        h = F.max_pool2d(h, 3, 2, 1)
        one = F.relu(layers.conv(h))
        three = F.relu(layers.conv(F.relu(layers.conv(h)), 1, 1))
        five = F.relu(layers.conv(F.relu(layers.conv(h)), 1, 2))
        pool = F.relu(layers.conv(F.max_pool2d(h, 3, 1, 1)))
        h = torch.cat([one, three, five, pool], 1)
    agree(net, layers, x, layers.linear(h.mean((2, 3))))


def test_alexnet() -> None:
    net, layers, x = prepared("alexnet", 70)
    h = F.max_pool2d(F.relu(layers.conv(x, 4, 2)), 3, 2)
    h = F.max_pool2d(F.relu(layers.conv(h, 1, 2)), 3, 2)
    for _ in range(3):
        h = F.relu(layers.conv(h, 1, 1))
    h = F.adaptive_avg_pool2d(F.max_pool2d(h, 3, 2), 1).flatten(1)
    h = F.relu(layers.linear(F.relu(layers.linear(h))))
    agree(net, layers, x, layers.linear(h))


def test_vgg11() -> None:
    net, layers, x = prepared("vgg11", 17)
    h = x
    for count in (1, 1, 2):
        for _ in range(count):
            h = F.relu(layers.conv(h, 1, 1))
        h = F.max_pool2d(h, 2)
    h = F.relu(layers.linear(F.relu(layers.linear(h.flatten(1)))))
    agree(net, layers, x, layers.linear(h))


def test_the_pools_of_inception_and_alexnet_reach_the_papers_resolutions() -> None:
    def resolutions(name: str) -> list[int]:
        found: list[int] = []
        with torch.device("meta"):
            net = models.build(name).eval()
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                    layer.register_forward_hook(lambda _m, _x, out: found.append(out.shape[-1]))
            net(torch.empty(1, 3, 224, 224))
        return list(dict.fromkeys(found))

    assert resolutions("inception-v1") == [112, 56, 28, 14, 7]
    assert resolutions("alexnet") == [55, 27, 13, 6]
    assert resolutions("resnet18") == [112, 56, 28, 14, 7]
    assert resolutions("vgg11") == [224, 112, 56, 28, 14, 7]


def test_dropout_is_there_and_does_nothing_in_evaluation() -> None:
    for name, shares in {
        "alexnet": [0.5, 0.5], "vgg11": [0.5, 0.5], "inception-v1": [0.4],
    }.items():  # fmt: skip
        net = models.small(name)
        assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == shares
        x = torch.rand(3, *models.MODELS[name].small_shape)
        assert torch.equal(net.eval()(x), net(x))
