"""Layers over both ends of cells: merged where that is exact, and the same function always."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph_forms import EITHER_WAY
from torch import Tensor, nn

from taut.bounds import IBP, METHODS, propagate
from taut.graph import Network, trace
from taut.models import Cells
from taut.operators import Beside, Ends, Steps
from taut.region import Box
from tests.soundness.harness import vary_norms

SHAPE = (2, 5, 6)


class TwoReaders(nn.Module):
    """Two layers, or a layer and something else, over the same ends."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.cells = Cells(5, emit="ends")
        self.one, self.other = nn.Conv2d(4, 3, 3, padding=1), other
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.cells(x)
        both = torch.relu(self.one(z)).flatten(1), torch.relu(self.other(z)).flatten(1)
        return self.head(torch.cat(both, 1))


class Block(nn.Module):
    """A residual block right behind the cells: a sum reads the ends too."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells([4, 6], emit="ends", offset=0.5)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(120, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.cells(x)
        return self.head((z + self.inner(z)).flatten(1))


def stack(*layers: nn.Module, n: int | list[int] = 5) -> nn.Module:
    return nn.Sequential(Cells(n, emit="ends"), *layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


MERGED: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: stack(nn.Conv2d(4, 3, 3)),
    "padding 1": lambda: stack(nn.Conv2d(4, 3, 3, padding=1)),
    "padding 2, no bias": lambda: stack(nn.Conv2d(4, 3, 3, padding=2, bias=False)),
    "stride": lambda: stack(nn.Conv2d(4, 3, (2, 3), (2, 1), (1, 0))),
    "dilation": lambda: stack(nn.Conv2d(4, 3, 2, 1, 1, 2)),
    "channels": lambda: stack(nn.Conv2d(4, 3, 3, padding=1), n=[3, 8]),
    "one cell": lambda: stack(nn.Conv2d(4, 3, 3, padding=1), n=1),
    "batch norm": lambda: stack(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3)),
    "linear": lambda: nn.Sequential(
        Cells(5, emit="ends"), nn.Flatten(), nn.Linear(120, 6), nn.ReLU(), nn.Linear(6, 4)
    ),
    "two readers": lambda: TwoReaders(nn.Conv2d(4, 2, 2, bias=False)),
    "convolution and linear": lambda: TwoReaders(
        nn.Sequential(nn.Flatten(), nn.Linear(120, 5), nn.BatchNorm1d(5))
    ),
}
LEFT: dict[str, Callable[[], nn.Module]] = {
    "groups": lambda: stack(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "activation": lambda: stack(nn.ReLU(), nn.Conv2d(4, 3, 3)),
    "pooling": lambda: stack(nn.AvgPool2d(2), nn.Conv2d(4, 3, 2)),
    "last axis": lambda: stack(nn.Linear(6, 2)),
    "one reader of another kind": lambda: TwoReaders(nn.AvgPool2d(2)),
    "residual": Block,
}


def made(make: Callable[[], nn.Module], shape: tuple[int, ...] = SHAPE) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        module(torch.rand(4, *shape))
        vary_norms(module)
    return module.eval()


def images(batch: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(7)
    return torch.rand(batch, *SHAPE, generator=g, dtype=torch.float64)


def kinds(net: Network) -> set[type]:
    return {type(node.operator) for node in net.nodes}


def assert_bounds_hold(module: nn.Module, net: Network) -> None:
    """Compare outputs of three methods with images of a box, its corners among them."""
    x, g = images(2), torch.Generator().manual_seed(1)
    box = Box.around(x, 0.03)
    where = torch.rand(300, *x.shape, generator=g, dtype=torch.float64)
    where[150:] = where[150:].round()
    points = torch.lerp(box.lower.expand_as(where), box.upper.expand_as(where), where)
    logits = module(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    for method in (IBP(), METHODS["crown-ibp"], METHODS["crown-lbp"], METHODS["crown"]):
        found = method.outputs(net, box)
        assert bool((found.lower <= logits.amin(0) + 1e-9).all())
        assert bool((found.upper >= logits.amax(0) - 1e-9).all())


@EITHER_WAY
@pytest.mark.parametrize("kind", [*MERGED, *LEFT])
def test_graphs_compute_what_modules_do(kind: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = wrap(made((MERGED | LEFT)[kind])).double()
    net = trace(module, SHAPE).instance()
    assert kinds(net) >= {Steps, Beside if kind in MERGED else Ends}
    assert len(kinds(net) & {Beside, Ends}) == 1
    torch.testing.assert_close(net(images()), module(images()), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert_bounds_hold(module, net)


def test_parameters_stay_live_in_every_precision() -> None:
    module = made(MERGED["padding 1"])
    graph = trace(module, SHAPE)
    x = images().float()
    torch.testing.assert_close(graph.instance()(x), module(x), rtol=1e-5, atol=1e-5)
    module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(-1.3)
    torch.testing.assert_close(graph.instance()(images()), module(images()), rtol=1e-12, atol=1e-12)
    layer = module[1]
    assert isinstance(layer, nn.Conv2d)
    box = Box.around(images(), 0.05)
    IBP().margins(graph.instance(), box, torch.zeros(4, dtype=torch.long))[:, 1:].sum().backward()
    grad = layer.weight.grad
    assert grad is not None
    step, places = 1e-6, [(0, 0, 1, 1), (1, 3, 2, 0), (2, 2, 0, 2)]
    for place in places:
        ends = []
        for sign in (1, -2):
            with torch.no_grad():
                layer.weight[place] += sign * step
                y = torch.zeros(4, dtype=torch.long)
                ends.append(float(IBP().margins(graph.instance(), box, y)[:, 1:].sum()))
        with torch.no_grad():
            layer.weight[place] += step
        torch.testing.assert_close(
            float(grad[place]), (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-5
        )


def test_statistics_of_the_batch_are_folded_too() -> None:
    module = made(MERGED["batch norm"]).double().train()
    graph = trace(module, SHAPE)
    x = images(8)
    logits, net = graph.clean(x)
    torch.testing.assert_close(net(x), logits, rtol=1e-12, atol=1e-12)
    cells, layer = module[0], module[1]
    z = layer(cells(x))
    mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
    index = next(n.inputs[0] for n in net.nodes if type(n.operator).__name__ == "ReLU")
    found = propagate(net, Box.around(x, 0.0)).interval(index)
    norm = module[2]
    assert isinstance(norm, nn.BatchNorm2d)
    scale = norm.weight / (var + norm.eps).sqrt()
    at = (None, slice(None), None, None)
    wanted = (z - mean[at]) * scale[at] + norm.bias[at]
    torch.testing.assert_close(found.center, wanted, rtol=1e-9, atol=1e-9)
    assert not found.radius.any()


def test_an_edge_of_one_pixel_moves_the_first_layer_by_both_weights() -> None:
    """One pixel between two cells changes a neuron by d (W_u + W_l), and its interval says so."""
    module = made(MERGED["padding 2, no bias"]).double()
    net = trace(module, SHAPE).instance()
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    lower, upper = x.clone(), x.clone()
    lower[0, 1, 2, 3], upper[0, 1, 2, 3] = 0.35, 0.45  # an edge of five cells is 0.4
    index = next(n.inputs[0] for n in net.nodes if type(n.operator).__name__ == "ReLU")
    known = propagate(net, Box(lower, upper)).interval(index)
    layer = module[1]
    assert isinstance(layer, nn.Conv2d)
    one, two = (layer(module[0](end)) for end in (lower, upper))
    assert bool((one != two).any())
    torch.testing.assert_close(2 * known.radius, (two - one).abs(), rtol=1e-6, atol=1e-9)
    weight = layer.weight.flip(2, 3)  # neuron (i, j) reads the pixel through tap (4 - i, 5 - j)
    wanted = (weight[:, 1] + weight[:, 3]).abs() * 2 / 5
    torch.testing.assert_close((two - one).abs()[0, :, 2:5, 3:6], wanted, rtol=1e-6, atol=1e-9)


def test_vectors_and_signals_have_ends_too() -> None:
    for shape, layers in (((3,), [nn.Linear(6, 4)]), ((2, 5), [nn.Flatten(), nn.Linear(20, 4)])):
        counts = [3, 5, 2][: shape[0]]
        module = nn.Sequential(Cells(counts, emit="ends"), *layers).double()
        net = trace(module, shape).instance()
        assert Beside in kinds(net)
        x = torch.rand(shape[0], *shape, dtype=torch.float64)  # as many images as channels
        torch.testing.assert_close(net(x), module(x), rtol=1e-12, atol=1e-12)
        alone = torch.cat([module(image[None]) for image in x])
        torch.testing.assert_close(net(x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("flat", [False, True])
def test_ends_that_are_the_output_stay(flat: bool) -> None:
    layers = [nn.Flatten()] if flat else [nn.Flatten(), nn.Identity()]
    net = nn.Sequential(Cells(2, emit="ends"), *layers).double()
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    assert torch.equal(trace(net, (1, 2, 2)).instance()(x), net(x))
