"""Random networks and points that every soundness test draws from, and what all of them assert.

Everything is float64, so that a bound may miss by rounding only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.bounds import BoundMethod, Bounds
from taut.bounds.zonotope import Zonotope
from taut.graph import Network, Node, trace
from taut.operators import Case, Linear, ReLU, Reshape, Scale
from taut.operators.registry import OPERATORS
from taut.region import Box

SEEDS = st.integers(0, 10**6)
TOLERANCE = 1e-10
ZONOTOPES = {
    "deepz": Zonotope(),
    "hybrid": Zonotope(hybrid=True),
    "deepz-alone": Zonotope(intersect=False),
    "hybrid-alone": Zonotope(hybrid=True, intersect=False),
}
EVERY_ZONOTOPE = pytest.mark.parametrize("method", ZONOTOPES.values(), ids=ZONOTOPES)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def uniform(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def every_case() -> list[tuple[str, int]]:
    """Return (operator name, case number) for every case of every registered operator."""
    return [
        (name, number)
        for name, entry in OPERATORS.items()
        for number in range(len(entry.cases(generator(0))))
    ]


def case(name: str, number: int, seed: int) -> Case:
    return OPERATORS[name].cases(generator(seed))[number]


def random_box(g: torch.Generator, batch: int, *shape: int, scale: float = 1.0) -> Box:
    """Return boxes of mixed widths, some pixels of width zero, not clipped."""
    center, radius = normal(g, batch, *shape), scale * uniform(g, batch, *shape)
    radius = radius * (uniform(g, batch, *shape) > 0.2)
    return Box(center - radius, center + radius)


def points_of(box: Box, g: torch.Generator, count: int = 200) -> Tensor:
    """Return points of each box, ``(count, B, *shape)``: inner ones, corners and edges."""
    t = uniform(g, count, *box.lower.shape)
    corner = (uniform(g, count, *[1] * box.lower.dim()) < 0.5).to(t)
    t = torch.where(corner > 0, t.round(), t)
    return torch.lerp(box.lower.expand_as(t), box.upper.expand_as(t), t)


def sphere(x: Tensor, radius: float, g: torch.Generator, count: int) -> Tensor:
    """Return points ``(count, B, *shape)`` at the l_2 distance ``radius`` from each image."""
    shift = normal(g, count, *x.shape)
    length = shift.flatten(2).norm(dim=2).view(count, len(x), *[1] * (x.dim() - 1))
    return x + radius * shift / length


def evaluate(net: Network, points: Tensor) -> Tensor:
    """Evaluate ``(count, B, *shape)`` points to ``(count, B, K)`` logits."""
    return net(points.flatten(0, 1)).unflatten(0, points.shape[:2])


def least_margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return the least ``z_y - z_j`` among points ``(count, B, K)``: ``(B, K)``, +inf at y."""
    margins = logits.gather(2, y.expand(len(logits), -1)[..., None]) - logits
    return margins.amin(0).scatter(1, y[:, None], math.inf)


def around_operator(found: Case, g: torch.Generator, width: int = 5) -> Network:
    """Return a small network with the operator in the middle.

    The operator sits between a random linear layer per input and a ReLU with a
    linear layer behind it, so that every method has to pass it in both directions.
    """
    nodes = [Node(0, "x", None, (), (width,))]

    def add(operator: object, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        nodes.append(Node(len(nodes), f"n{len(nodes)}", operator, inputs, shape))  # type: ignore[arg-type]
        return len(nodes) - 1

    sources = []
    for shape in found.shapes:
        size = int(torch.Size(shape).numel())
        at = add(Linear(normal(g, size, width), normal(g, size)), (0,), (size,))
        at = add(Reshape(shape), (at,), shape)
        least = getattr(found.operator, "domain", (-math.inf,))[0]
        if least > -math.inf:  # keep what goes in inside the operator's domain
            at = add(ReLU(), (at,), shape)
            shift = torch.full(shape, least + 0.05, dtype=torch.float64)
            at = add(Scale(None, shift), (at,), shape)
        sources.append(at)
    example = [torch.zeros(1, *shape, dtype=torch.float64) for shape in found.shapes]
    shape = tuple(found.operator.forward(*example).shape[1:])
    at = add(found.operator, tuple(sources), shape)
    size = int(torch.Size(shape).numel())
    at = add(Reshape((size,)), (at,), (size,))
    at = add(Linear(normal(g, 6, size) / size**0.5, normal(g, 6)), (at,), (6,))
    at = add(ReLU(), (at,), (6,))
    add(Linear(normal(g, 4, 6), normal(g, 4)), (at,), (4,))
    return Network(tuple(nodes))


class Residual(nn.Module):
    """Two residual blocks, one with a projection, batch norm before and after; functional."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, 1, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.lone = nn.BatchNorm2d(channels)
        self.third = nn.Conv2d(channels, channels, 3, 2, 1)
        self.short = nn.Conv2d(channels, channels, 1, 2)
        self.head = nn.Linear(channels * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first((x - 0.3) / 0.4)))
        h = torch.relu(self.second(h) + h)
        h = torch.relu(self.lone(h))
        h = torch.relu(self.third(h) - self.short(h))
        return self.head(h.view(h.size(0), -1))


def vary_norms(module: nn.Module) -> None:
    """Give batch norms statistics, weights and biases at random."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)


def random_module(kind: str, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a random float64 module in eval mode, and its input shape."""
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        module, shape = _build(kind)
        vary_norms(module)
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.data.mul_(1.5)
    return module.double().eval(), shape


LARGE = ("resnet18", "alexnet", "vgg11", "inception-v1")
"""Networks for images of ImageNet's size."""

KINDS = ("linear", "dense", "deep", "conv", "norm", "residual")


def _build(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    if kind == "linear":
        return nn.Linear(6, 4), (6,)
    if kind == "dense":
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), (6,)
    if kind == "deep":
        widths = [5, 7, 6, 8, 5]
        layers = [
            layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())
        ]
        return nn.Sequential(*layers, nn.Linear(5, 4)), (5,)
    if kind == "conv":
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(4, 4, (2, 3), (1, 2), (0, 1), groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.ReLU(),
            nn.Linear(6, 4),
        ), (2, 5, 7)
    if kind == "norm":
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, 1, 1, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 3, 3, 1, 1, dilation=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 4),
        ), (1, 4, 4)
    return Residual(), (1, 4, 4)


def traced(kind: str, seed: int) -> Network:
    """Return a random network as it is bounded, its weights with gradients."""
    module, shape = random_module(kind, seed)
    return trace(module, shape).instance()


def labelled_boxes(net: Network, seed: int, images: int, scale: float) -> tuple[Box, Tensor]:
    """Return random boxes for a network, and the classes of their midpoints."""
    box = random_box(generator(seed), images, *net.input_shape, scale=scale)
    return box, net(box.center).argmax(1)


def least_inside(
    margins: Tensor, values: Mapping[int, Tensor], cuts: Mapping[int, Bounds]
) -> Tensor:
    """Return the least margins ``(B, K)`` of those points ``(S, B)`` that keep all cuts.

    ``values`` are those of the nodes that are cut, ``(S, B, *shape)``.
    """
    kept = [
        ((values[i] >= c.lower) & (values[i] <= c.upper)).flatten(2).all(2) for i, c in cuts.items()
    ]
    inside = torch.stack(kept).all(0)
    return torch.where(inside[..., None], margins, math.inf).amin(0)


def assert_sound(net: Network, box: Box, method: BoundMethod, logits: Tensor) -> None:
    """Compare a method's margins and bounds with the logits ``(points, B, K)`` at points."""
    y = logits[0].argmax(1)
    batch, classes = logits.shape[1:]
    margins = method.margins(net, box, y)
    assert margins.shape == (batch, classes)
    assert bool(torch.isinf(margins.gather(1, y[:, None])).all())
    slack = TOLERANCE * (1 + logits.abs().amax())
    assert bool((margins <= least_margins(logits, y) + slack).all())
    outputs = method.outputs(net, box)
    assert bool((outputs.lower <= logits.amin(0) + slack).all())
    assert bool((outputs.upper >= logits.amax(0) - slack).all())


def assert_sound_in_float32(kind: str, method: BoundMethod) -> None:
    """Compare margins in float32 with points evaluated in float64."""
    module, shape = random_module(kind, 5)
    box = random_box(generator(5), 8, *shape, scale=0.2)
    fine = trace(module, shape).instance()
    logits = evaluate(fine, points_of(box, generator(6), 1000))
    y = logits[0].argmax(1)
    coarse = trace(module.float(), shape).instance()
    margins = method.margins(coarse, box.to(dtype=torch.float32), y)
    assert margins.dtype == torch.float32
    assert bool((margins <= least_margins(logits, y) + 1e-5 * (1 + logits.abs().amax())).all())


def assert_gradients(loss: Callable[[], Tensor], module: nn.Module) -> None:
    """Compare gradients of the weights of a module with finite differences, along random ways."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    slopes = torch.autograd.grad(loss(), weights)
    g = generator(8)
    for weight, slope in zip(weights, slopes, strict=True):
        way, step = normal(g, *weight.shape), 1e-6
        with torch.no_grad():
            weight += step * way
            high = loss()
            weight -= 2 * step * way
            low = loss()
            weight += step * way
        change = float((high - low) / (2 * step))
        assert math.isclose(change, float((slope * way).sum()), rel_tol=2e-4, abs_tol=1e-4)
