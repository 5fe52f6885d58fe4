"""Bounds of networks that see their pixels through cells, against all combinations of cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.bounds import IBP, METHODS, Ascent, Backward, BoundMethod, Optimised, propagate
from taut.bounds.entry import behind_cells
from taut.graph import Network, Node, trace
from taut.models import Cells
from taut.operators import Bounds, Steps
from taut.region import Box, LpBall
from tests.counts import cases
from tests.soundness.harness import (
    SEEDS,
    ZONOTOPES,
    assert_sound,
    evaluate,
    generator,
    least_margins,
    normal,
    sphere,
    uniform,
)

EVERY: dict[str, BoundMethod] = {
    **METHODS,
    **ZONOTOPES,
    "alpha-crown": Optimised(Ascent(iterations=1)),
    "published crown": Backward("crown", lines="adaptive", intersect=False),
    "published lbp": Backward("lbp", depth=1, lines="adaptive", intersect=False),
    "published relaxed-crown-2": Backward("crown", depth=2, lines="adaptive", intersect=False),
}


class Besides(nn.Module):
    """Two grids of one image, and the raw pixels too."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = Cells(3), Cells(4, emit="ends")
        self.one, self.two, self.raw = (nn.Conv2d(c, 3, 2) for c in (1, 2, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.one(self.coarse(x)) + self.two(self.fine(x)) + self.raw(x)
        return self.head(torch.relu(z).flatten(1))


def conv(cells: Cells, channels: int, padding: int = 1) -> nn.Module:
    side = 2 + 2 * padding
    return nn.Sequential(
        cells,
        nn.Conv2d(channels, 4, 2, 1, padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * side * side, 6),
        nn.ReLU(),
        nn.Linear(6, 4),
    )


def dense(cells: Cells, size: int = 9) -> nn.Module:
    layers = [nn.Linear(size, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 4)]
    return nn.Sequential(cells, nn.Flatten(), *layers)


def learned() -> Cells:
    cells = Cells(5, learn=True)
    with torch.no_grad():
        cells.thresholds.copy_(torch.tensor([0.71, 0.3, 0.45, 0.9]))
    return cells


NETS: dict[str, Callable[[], nn.Module]] = {
    "levels, dense": lambda: dense(Cells(5)),
    "levels, convolution": lambda: conv(Cells(4), 1),
    "ends, dense": lambda: dense(Cells(5, emit="ends"), 18),
    "ends, convolution": lambda: conv(Cells(5, emit="ends", offset=0.5), 2),
    "learned, out of order": lambda: dense(learned()),
    "given thresholds": lambda: conv(Cells(thresholds=[0.2, 0.25, 0.8]), 1, 0),
    "two grids and pixels": Besides,
}
SHAPE = (1, 3, 3)


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
    for weight in module.parameters():
        if weight.dim() > 1:
            weight.data.mul_(1.5)
    return module.double().eval()


def images(seed: int, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Return images of which some pixels are black or white."""
    x = 1.4 * uniform(generator(seed), batch, *shape) - 0.2
    return x.clamp(0, 1)


def combinations(net: Network, lower: Tensor, upper: Tensor) -> Tensor:
    """Return a point ``(N, *shape)`` of one box for every combination of its pixels' cells."""
    edges = [n.operator.thresholds.detach() for n in net.nodes if isinstance(n.operator, Steps)]
    choices = []
    for place in range(lower.numel()):
        low, high = float(lower.flatten()[place]), float(upper.flatten()[place])
        channel = place * lower.shape[0] // lower.numel()
        rows = [row if row.dim() == 1 else row[channel] for row in edges]
        inside = {float(t) for row in rows for t in row if low < float(t) <= high}
        choices.append(sorted({low, *inside}))
    points = torch.tensor(list(itertools.product(*choices)), dtype=lower.dtype)
    return points.view(-1, *lower.shape)


def least(module: nn.Module, net: Network, box: Box, y: Tensor) -> Tensor:
    """Return the exact least margins ``(B, K)`` over boxes."""
    found = []
    for index in range(len(box)):
        points = combinations(net, box.lower[index], box.upper[index])
        assert len(points) <= 2**13
        with torch.no_grad():
            found.append(least_margins(module(points)[:, None], y[index : index + 1]))
    return torch.cat(found)


def straddling(net: Network, box: Box) -> Tensor:
    """Return how many cells the pixel of most cells can be in, for each image."""
    steps = next(n.operator for n in net.nodes if isinstance(n.operator, Steps))
    return 1 + (steps.cell(box.upper) - steps.cell(box.lower)).flatten(1).amax(1)


def below(low: Tensor, high: Tensor) -> bool:
    finite = torch.isfinite(high)
    return bool((low[finite] <= high[finite] + 1e-9 * (1 + high[finite].abs())).all())


@pytest.mark.parametrize("kind", NETS)
@settings(max_examples=cases(2), deadline=None)
@given(seed=SEEDS)
def test_every_method_covers_every_combination(kind: str, seed: int) -> None:
    module = made(NETS[kind], seed)
    net = trace(module, SHAPE).instance()
    x = images(seed, 3, SHAPE)
    box, y = Box.around(x, 0.06), module(x).argmax(1)
    exact = least(module, net, box, y)
    for name, method in EVERY.items():
        assert below(method.margins(net, box, y), exact), name


@pytest.mark.parametrize("emit", ["levels", "ends"])
@settings(max_examples=cases(2), deadline=None)
@given(seed=SEEDS)
def test_pixels_of_three_and_four_cells(emit: str, seed: int) -> None:
    channels = 2 if emit == "ends" else 1
    make = lambda: dense(Cells(12, emit=emit), 4 * channels)  # noqa: E731
    module, shape = made(make, seed), (1, 2, 2)
    net = trace(module, shape).instance()
    x = images(seed, 4, shape).clamp(0.15, 0.85)
    box, y = Box.around(x, 0.13), module(x).argmax(1)
    assert bool((straddling(net, box) >= 3).all())
    exact = least(module, net, box, y)
    for name, method in EVERY.items():
        assert below(method.margins(net, box, y), exact), name


@pytest.mark.parametrize("emit", ["levels", "ends"])
@pytest.mark.parametrize("method", EVERY)
def test_affine_behind_the_cells_is_exact(method: str, emit: str) -> None:
    channels = 2 if emit == "ends" else 1
    for layers in (
        [nn.Flatten(), nn.Linear(9 * channels, 4)],
        [nn.Conv2d(channels, 2, 2, 1, 1), nn.Flatten(), nn.Linear(32, 4)],
    ):
        module = made(lambda found=layers: nn.Sequential(Cells(5, emit=emit), *found), 3)
        net = trace(module, SHAPE).instance()
        x = images(1, 5, SHAPE)
        box, y = Box.around(x, 0.07), module(x).argmax(1)
        exact = least(module, net, box, y)
        found = EVERY[method].margins(net, box, y)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", [0, 1])
def test_radius_of_a_layer_over_both_ends(padding: int) -> None:
    r"""Of a layer over both ends it is :math:`|W_u + W_l| \, d / 2` of the pixels between cells."""
    module = made(lambda: conv(Cells(7, emit="ends"), 2, padding), 2)
    x = images(2, 6, SHAPE)
    box, y = Box.around(x, 0.04), module(x).argmax(1)
    graph = trace(module, SHAPE)
    net = graph.instance()
    t = torch.arange(1, 7, dtype=torch.float64) / 7 - 2.0**-20
    between = ((box.lower[..., None] < t) & (t <= box.upper[..., None])).sum(-1)
    assert set(between.unique().tolist()) == {0, 1}
    layer = module[1]
    assert isinstance(layer, nn.Conv2d)
    both = layer.weight[:, :1] + layer.weight[:, 1:]
    wanted = F.conv2d(between.double() / 7, both.abs(), padding=padding)
    known = propagate(net, box)
    index = next(n.inputs[0] for n in net.nodes if type(n.operator).__name__ == "ReLU")
    torch.testing.assert_close(known.interval(index).radius, wanted, rtol=1e-6, atol=1e-9)

    apart = _apart(graph.steps)
    torch.testing.assert_close(apart(x), module(x), rtol=1e-12, atol=1e-12)
    alone = F.conv2d(between.double().repeat(1, 2, 1, 1) / 7, layer.weight.abs(), padding=padding)
    torch.testing.assert_close(
        propagate(apart, box).interval(index).radius, alone, rtol=1e-6, atol=1e-9
    )
    assert bool((wanted <= alone + 1e-9).all())
    one, two = (IBP().margins(n, box, y) for n in (net, apart))
    assert below(two, one)
    assert bool((one > two + 1e-6).any())


def _apart(steps: tuple[object, ...]) -> Network:
    """Return the nodes as they are traced, their operators as the module has them."""
    nodes = []
    for index, step in enumerate(steps):
        operator = None if step.template is None else step.template.make()  # type: ignore[attr-defined]
        nodes.append(Node(index, step.name, operator, step.inputs, step.shape))  # type: ignore[attr-defined]
    return Network(tuple(nodes))


class Mean(nn.Module):
    """The mean of two readers of one pixel."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x) + self.two(x)) / 2


def one_pixel(thresholds: list[float], dtype: torch.dtype, readers: int = 1) -> Network:
    """Return a network whose first logit is what the cells of one pixel emit."""
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [0.0]])
    cells: nn.Module = Cells(thresholds=thresholds)
    if readers == 2:  # whose values then are no input of their own
        cells = Mean(cells, Cells(thresholds=thresholds))
    return trace(nn.Sequential(cells, head).to(dtype).eval(), (1,)).instance()


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", EVERY)
def test_ends_on_an_edge_and_one_number_beside_it(
    method: str, dtype: torch.dtype, readers: int
) -> None:
    thresholds = [0.1, 0.3, 0.30000001192092896 + 2.0**-20, 1 / 3, 0.5, 0.7, 0.9]
    net = one_pixel(thresholds, dtype, readers)
    steps = next(n.operator for n in net.nodes if isinstance(n.operator, Steps))
    t = steps.thresholds.to(dtype)
    near = [t, *(torch.nextafter(t, torch.full_like(t, end)) for end in (0.0, 1.0))]
    ends = torch.cat([*near, torch.rand(30, dtype=dtype, generator=generator(0))]).sort().values
    lower, upper = (e[:, None] for e in torch.combinations(ends, with_replacement=True).unbind(1))
    reached = [[sum(float(edge) <= float(e) for edge in t) for e in x] for x in (lower, upper)]
    low, high = (torch.tensor(r) for r in reached)
    bends = steps.bends(Bounds(lower, upper))[:, 0]
    assert torch.equal(bends, low != high)
    found = EVERY[method].outputs(net, Box(lower, upper))
    for wanted, bound in ((low, found.lower), (high, found.upper)):
        torch.testing.assert_close(7 * bound[:, 0], wanted.to(dtype), rtol=0, atol=1e-4)


@settings(max_examples=cases(60), deadline=None)
@given(
    st.lists(st.integers(1, 2**24 - 1), min_size=1, max_size=6, unique=True),
    st.lists(st.tuples(st.integers(0, 2**24), st.integers(0, 200)), min_size=1, max_size=5),
    st.sampled_from([1, 2]),
)
def test_float32_boxes_against_whole_numbers(
    edges: list[int], boxes: list[tuple[int, int]], readers: int
) -> None:
    """Pixels and edges are multiples of 2^-24, which float32 holds; their midpoints are not."""
    edges = sorted(edges)
    with_edges = [(edges[i % len(edges)], width) for i, (_, width) in enumerate(boxes)]
    pairs = [(max(0, a - w), min(2**24, a + w % 7)) for a, w in boxes + with_edges]
    net = one_pixel([e / 2**24 for e in edges], torch.float32, readers)
    ends = torch.tensor(pairs, dtype=torch.float64) / 2**24
    lower, upper = ends.float().unbind(1)
    assert torch.equal(torch.stack([lower, upper], 1).double(), ends)
    wanted = [[sum(e <= a for e in edges) for a in pair] for pair in pairs]
    for method in (IBP(), METHODS["lbp"], METHODS["crown"], METHODS["deepz"], ZONOTOPES["hybrid"]):
        found = method.outputs(net, Box(lower[:, None], upper[:, None]))
        both = torch.stack([found.lower[:, 0], found.upper[:, 0]], 1)
        scaled = (both * len(edges)).tolist()
        for row, cells in zip(scaled, wanted, strict=True):
            assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(row, cells, strict=True))


def test_grey_levels_at_whole_distances_keep_their_cells() -> None:
    """Radii of whole grey levels: cells of both ends are those of exact arithmetic."""
    for n, eps in itertools.product((5, 15, 17, 51, 57, 85), (1, 2, 8, 16)):
        edges = Cells(n).thresholds.tolist()
        net = one_pixel(edges, torch.float32)
        x = (torch.arange(256) / 255)[:, None]
        found = IBP().outputs(net, Box.around(x, eps / 255))
        for ends, sign in ((found.lower, -1), (found.upper, 1)):
            grey = [min(max(g + sign * eps, 0), 255) for g in range(256)]
            wanted = [min(math.floor(Fraction(g * n, 255)), n - 1) for g in grey]
            assert torch.equal((ends[:, 0] * (n - 1)).round().long(), torch.tensor(wanted)), n


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("kind", ["levels, dense", "ends, convolution", "two grids and pixels"])
def test_balls_are_covered(kind: str, p: int) -> None:
    module = made(NETS[kind], 5)
    net = trace(module, SHAPE).instance()
    x = images(5, 3, SHAPE)
    ball = LpBall.around(x, 0.15, p)
    g = generator(1)
    if p == 2:
        points = sphere(x, 0.15 * (1 - 1e-12), g, 400)
    else:
        moves = normal(g, 400, *x.shape)
        moves = moves * (uniform(g, 400, *x.shape) > 0.7)
        length = moves.abs().flatten(2).sum(2).clamp(min=1e-9).view(400, -1, 1, 1, 1)
        points = x + 0.15 * (1 - 1e-12) * moves / length
    points = torch.cat([x[None], points.clamp(0, 1)])
    assert all(bool(ball.contains(each).all()) for each in points)
    logits = evaluate(net, points).detach()
    assert bool((logits != logits[0]).any())
    for method in EVERY.values():
        assert_sound(net, ball, method, logits)  # type: ignore[arg-type]


def test_methods_are_ordered_behind_cells() -> None:
    """IBP <= LBP, CROWN-IBP <= CROWN-LBP <= CROWN with tight lines; LBP is not IBP again."""
    gained = 0
    for seed, kind in itertools.product(range(6), NETS):
        module = made(NETS[kind], seed)
        net = trace(module, SHAPE).instance()
        x = images(seed, 3, SHAPE)
        box, y = Box.around(x, (0.02, 0.06, 0.15)[seed % 3]), module(x).argmax(1)
        ibp = IBP().margins(net, box, y)
        crown_ibp = Backward("ibp", "tight").margins(net, box, y)
        lbp = Backward("lbp", "tight", 1).margins(net, box, y)
        crown_lbp = Backward("lbp", "tight").margins(net, box, y)
        crown = Backward("crown", "tight").margins(net, box, y)
        pairs = ((ibp, lbp), (ibp, crown_ibp), (lbp, crown_lbp), (crown_ibp, crown_lbp))
        for low, high in (*pairs, (crown_lbp, crown)):
            assert below(low, high), (kind, seed)
        if kind != "two grids and pixels":
            gained += int((lbp > ibp + 1e-3)[torch.isfinite(ibp)].sum())
    assert gained > 100


def test_what_is_carried_begins_behind_one_staircase_alone() -> None:
    box = Box.around(images(0, 2, SHAPE), 0.1)
    net = trace(made(NETS["ends, convolution"], 0), SHAPE).instance()
    behind, values = behind_cells(net, box)
    steps = net.nodes[1].operator
    assert isinstance(steps, Steps)
    assert torch.equal(values.box.lower, steps.values[steps.cell(box.lower)])
    assert torch.equal(values.box.upper, steps.values[steps.cell(box.upper)])
    assert torch.equal(behind(steps.forward(box.center)), net(box.center))
    for module in (made(Besides, 0), nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).double()):
        other = trace(module, SHAPE).instance()
        assert behind_cells(other, box) == (other, box)
