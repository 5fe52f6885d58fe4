"""Affine operators, pooling and arithmetic, traced from module, functional and method forms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from graph_forms import FORMS, module
from torch import Tensor, nn

from taut.bounds import IBP, Backward
from taut.graph import trace
from taut.region import Box
from tests.soundness.harness import generator, points_of, uniform


@pytest.mark.parametrize("name", FORMS)
def test_the_traced_network_computes_what_the_module_computes(name: str) -> None:
    net, shape = FORMS[name]
    net.eval()
    graph = trace(net, shape)
    for batch in (1, 3, 4):
        x = 4 * uniform(generator(batch), batch, *shape) - 2
        torch.testing.assert_close(graph.instance()(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FORMS)
def test_intervals_and_rows_of_every_form_are_sound(name: str) -> None:
    """Bounds hold the module's own outputs, and are those outputs where the box is a point."""
    net, shape = FORMS[name]
    net.eval()
    network = trace(net, shape).instance()
    center = 4 * uniform(generator(1), 2, *shape) - 2
    box = Box(center - 0.3, center + 0.3)
    points = points_of(box, generator(2), 50)
    values = net(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    for method in (IBP(), Backward("ibp", "tight"), Backward("ibp", "adaptive")):
        found = method.outputs(network, box)
        assert bool((found.lower <= values.amin(0) + 1e-9).all())
        assert bool((found.upper >= values.amax(0) - 1e-9).all())
        at = method.outputs(network, Box(center, center))
        torch.testing.assert_close(at.lower, net(center), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(at.upper, net(center), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["max_pool2d-padded", "pixel_shuffle", "product", "parts", "cat-1"]
)
def test_bounds_in_float32_stay_in_float32(name: str) -> None:
    net, shape = FORMS[name]
    net = copy.deepcopy(net).float().eval()
    box = Box.around(uniform(generator(3), 2, *shape).float(), 0.1)
    for method in (IBP(), Backward("ibp", "adaptive")):
        found = method.outputs(trace(net, shape).instance(), box)
        assert found.lower.dtype == found.upper.dtype == torch.float32


def test_weights_of_new_layers_stay_live() -> None:
    layers = (nn.ConvTranspose2d(2, 3, 2), nn.Conv1d(3, 2, 2), nn.ConvTranspose1d(2, 2, 3))
    up, down, back = layers
    level = nn.Parameter(torch.zeros(2, 1))

    class Live(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.back, self.level = up, down, back, level

        def forward(self, x: Tensor) -> Tensor:
            signal = self.down(self.up(x).amax(2))
            return torch.maximum(self.back(signal), self.level).sum(2)

    net = Live().double().eval()
    graph = trace(net, (2, 2, 3))
    x = uniform(generator(4), 2, 2, 2, 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3)
    torch.testing.assert_close(graph.instance()(x), net(x), rtol=1e-12, atol=1e-12)
    box = Box.around(x, 0.1)
    found = IBP().outputs(graph.instance(), box)
    (found.upper - found.lower).sum().backward()
    assert all(p.grad is not None for p in layers[0].parameters() if p.dim() > 1)


def test_a_constant_part_is_the_same_for_every_image() -> None:
    class Joined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.full((3, 2), 0.5).double()], 1)

    network = trace(Joined(), (4,)).instance()
    for batch in (2, 3):
        x = uniform(generator(batch), batch, 4)
        box = Box.around(x, 0.1)
        for found in (IBP().outputs(network, box), Backward("ibp", "tight").outputs(network, box)):
            torch.testing.assert_close(found.lower[:, 4:], torch.full((batch, 2), 0.5).double())
            torch.testing.assert_close(found.lower[:, :4], box.lower)
            torch.testing.assert_close(found.upper[:, :4], box.upper)


def test_max_pooling_never_chooses_padding() -> None:
    """Where every pixel is negative a padding of zeros would win; no bound may let it."""
    net = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten()).double()
    x = -1 - uniform(generator(5), 2, 1, 5, 5)
    box = Box(x - 0.5, x + 0.5)
    network = trace(net, (1, 5, 5)).instance()
    found = IBP().outputs(network, box)
    exact = F.max_pool2d(box.lower, 3, 2, 1), F.max_pool2d(box.upper, 3, 2, 1)
    torch.testing.assert_close(found.lower, exact[0].flatten(1))
    torch.testing.assert_close(found.upper, exact[1].flatten(1))


def test_running_statistics_follow_signals_in_training() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 4))
    net = net.double().train()
    twin = copy.deepcopy(net)
    x = uniform(generator(6), 5, 2, 6)
    logits, network = trace(net, (2, 6)).clean(x)
    torch.testing.assert_close(logits, twin(x))
    torch.testing.assert_close(network(x), logits)
    for own, other in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other)


def test_gradients_of_bounds_equal_finite_differences() -> None:
    """Gradients of a bound pass operators that differentiate a torch function for their rows."""
    net, shape = module(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Upsample((5, 5), mode="bilinear"),
        nn.Conv2d(1, 2, 3),
        nn.MaxPool2d(2, 1),
        nn.ReLU(),
        shape=(1, 3, 3),
    )
    graph, x = trace(net, shape), uniform(generator(7), 2, *shape)
    box, y = Box.around(x, 0.2), torch.tensor([0, 1])
    weight = next(net.parameters())

    def loss() -> Tensor:
        margins = Backward("ibp", "tight").margins(graph.instance(), box, y)
        return margins[torch.isfinite(margins)].sum()

    (slope,) = torch.autograd.grad(loss(), weight)
    way, step = torch.sign(slope), 1e-6
    with torch.no_grad():
        weight += step * way
        high = loss()
        weight -= 2 * step * way
        low = loss()
    change = float((high - low) / (2 * step))
    assert abs(change - float((slope * way).sum())) < 1e-4 * abs(change)


class Branches(nn.Module):
    """Affine layers of images between activations: what windows of rows have to pass."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.one(x), self.pool(self.two(x))], 1)
        return F.avg_pool2d(F.pad(joined, (2, -1, 1, 0)), (2, 3), (2, 1), padding=(0, 1))


def unrolled(layer: nn.Module, *shape: int) -> nn.Sequential:
    """Return an affine layer of images as a dense one, from evaluations alone."""
    size = torch.Size(shape).numel()
    constant = layer(torch.zeros(1, *shape).double())
    columns = layer(torch.eye(size).double().view(size, *shape)) - constant
    dense = nn.Linear(size, constant.numel()).double()
    dense.weight.data, dense.bias.data = columns.flatten(1).T.contiguous(), constant.flatten()
    return nn.Sequential(nn.Flatten(), dense, nn.Unflatten(1, constant.shape[1:]))


def test_windows_of_rows_pass_pools_pads_and_branches() -> None:
    """CROWN of the layers themselves is CROWN of their matrices."""
    torch.manual_seed(4)
    first, branches = nn.Conv2d(1, 4, 3, padding=1).double(), Branches().double()
    last = nn.Sequential(nn.ReLU(), nn.Conv2d(5, 2, 3, 2), nn.ReLU(), nn.Flatten()).double()
    x = uniform(generator(9), 2, 1, 14, 14)
    out = last(branches(first(x).relu()))
    last.append(nn.Linear(out.shape[1], 3).double())
    plain = nn.Sequential(first, nn.ReLU(), branches, last)
    dense = nn.Sequential(
        unrolled(first, 1, 14, 14), nn.ReLU(), unrolled(branches, 4, 14, 14), last
    )
    box, y = Box.around(x, 0.05), torch.tensor([0, 2])
    method = Backward("crown", "tight")
    ours = method.margins(trace(plain, (1, 14, 14)).instance(), box, y)
    theirs = method.margins(trace(dense, (1, 14, 14)).instance(), box, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
