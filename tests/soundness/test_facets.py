"""Constraints on pairs of neurons: facets of the hull, and the bounds they enter."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from taut.bounds import Bounds, Intermediate, backward, propagate
from taut.bounds.hull import Hull, Octagon, Pieces, hull
from taut.bounds.methods import Optimised
from taut.bounds.optimised import FACET, Ascent, Families, Mixed, optimised_rows
from taut.bounds.pairs import Pairing, paired, pieces_of, strongest
from taut.bounds.tie import Facets
from taut.errors import ConfigError
from taut.graph import Network, trace
from taut.operators import ReLU
from taut.operators.base import Activation
from taut.operators.leaky import LeakyReLU
from taut.operators.ramp import ParamRamp, Ramp
from taut.property import margin_rows
from taut.region import Box
from taut.verify.branch import Branch
from taut.verify.complete import Question
from tests.counts import cases
from tests.soundness.harness import generator, least_inside, normal, points_of, random_box, uniform
from tests.verify.branch_nets import ACTIVATIONS, dense, exact_minimum

RAMP = Ramp(torch.tensor(0.2).double(), torch.tensor(-0.1).double(), torch.tensor(0.4).double())
OPERATORS = {"relu": ReLU(), "leaky": LeakyReLU(0.3), "steep": LeakyReLU(-0.5), "ramp": RAMP}
EVERY = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def octagons(seed: int, count: int) -> tuple[Octagon, Tensor, Tensor]:
    """Octagons around points of random maps of a square, with those points ``(N, M, 2)``."""
    g = generator(seed)
    maps, shift = normal(g, count, 2, 2), 0.3 * normal(g, count, 1, 2)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2))).double()
    inner = 2 * uniform(g, count, 400, 2) - 1
    square = torch.cat([corners.expand(count, -1, -1), inner], 1)
    z = square @ maps.mT + shift
    forms = torch.stack([z[..., 0], z[..., 1], z.sum(2), z[..., 0] - z[..., 1]], 2)
    return Octagon(forms.amin(1), forms.amax(1)), z, forms


def pieces_on(operator: Activation, octagon: Octagon) -> Pieces:
    bounds = Bounds(octagon.lower[:, :2], octagon.upper[:, :2])
    both = torch.tensor([[[0, 1]]]).expand(len(octagon.lower), -1, -1)
    return pieces_of(operator, bounds, both)


def all_facets(octagon: Octagon, pieces: Pieces, dtype: torch.dtype = torch.float64) -> Hull:
    def same(before: Tensor, after: Tensor, limit: Tensor, which: Tensor) -> Tensor:
        return torch.ones_like(limit)

    return hull(octagon.closed(), pieces, 40, same, dtype)


def largest(octagon: Octagon, pieces: Pieces, at: int, row: Tensor) -> float:
    """Maximise P z + Q f(z) over an octagon by a linear program on each pair of pieces."""
    sums = [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]
    (_, _, s0, d0), (_, _, s1, d1) = octagon.lower[at].tolist(), octagon.upper[at].tolist()
    spots, values = pieces.spots[at].tolist(), pieces.values[at].tolist()
    best = -math.inf
    for i, j in itertools.product(range(len(spots[0]) - 1), repeat=2):
        ends = [(spots[n][k], spots[n][k + 1]) for n, k in enumerate((i, j))]
        slope, shift = [], 0.0
        for n, k in enumerate((i, j)):
            width = ends[n][1] - ends[n][0]
            steep = (values[n][k + 1] - values[n][k]) / width if width > 0 else 0.0
            slope.append(float(row[n]) + float(row[2 + n]) * steep)
            shift += float(row[2 + n]) * (values[n][k] - steep * ends[n][0])
        found = linprog([-s for s in slope], sums, [s1, d1, -s0, -d0], bounds=ends)
        if found.status == 0:
            best = max(best, -float(found.fun) + shift)
    return best


@EVERY
def test_facets_hold_and_touch_the_graph(operator: Activation) -> None:
    octagon, z, _ = octagons(1, 12)
    pieces = pieces_on(operator, octagon)
    found = all_facets(octagon, pieces)
    there = (found.after != 0).any(2)
    assert int(there.sum()) > 30
    values = torch.cat([z, operator.forward(z)], 2) @ torch.cat([found.before, found.after], 2).mT
    assert bool((values.amax(1) <= found.limit + 1e-12).all())
    for at, facet in there.nonzero().tolist()[::6]:
        row = torch.cat([found.before[at, facet], found.after[at, facet]])
        assert float(found.limit[at, facet]) == pytest.approx(largest(octagon, pieces, at, row))


@EVERY
def test_facets_and_single_neurons_make_up_the_hull(operator: Activation) -> None:
    """No linear form is larger under the constraints than it is somewhere on the graph."""
    octagon, _, _ = octagons(2, 6)
    pieces, g = pieces_on(operator, octagon), generator(3)
    found = all_facets(octagon, pieces)
    sums = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]).double()
    for at in range(6):
        spots, values = pieces.spots[at], pieces.values[at]
        count = spots.shape[1]
        lift = torch.zeros(4, 2 * count).double()  # shares of the spots to z and y
        for n in range(2):
            lift[n, n * count : (n + 1) * count] = spots[n]
            lift[2 + n, n * count : (n + 1) * count] = values[n]
        rows = torch.cat([found.before[at], found.after[at]], 1)
        upper, lower = octagon.upper[at, 2:], octagon.lower[at, 2:]
        a = torch.cat([rows @ lift, sums @ lift[:2]])
        b = torch.cat([found.limit[at], upper, -lower])
        ones = torch.block_diag(torch.ones(1, count), torch.ones(1, count))
        table = a.numpy(), b.numpy(), ones.numpy()
        for row in normal(g, 4, 4):
            relaxed = linprog(-(row @ lift).numpy(), *table, [1.0, 1.0], bounds=(0, None))
            exact = largest(octagon, pieces, at, row)
            assert -float(relaxed.fun) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@EVERY
def test_thin_and_large_octagons(operator: Activation, size: float, dtype: torch.dtype) -> None:
    """Copies, mirrored copies, points, boxes, nearly empty ones: what is found holds."""
    if operator is RAMP:
        knees = [None if knee is None else size * knee for knee in (RAMP.low, RAMP.high)]
        operator = Ramp(RAMP.eta, *knees)
    t = size * torch.linspace(-1, 0.7, 101).double()
    nothing, tiny = torch.zeros_like(t), 1e-9 * torch.sin(100 * t / size) * t
    shapes = [(t, t), (t, -t), (t, nothing), (nothing, nothing), (t, t + tiny), (t, t.roll(50))]
    z = torch.stack([torch.stack(shape, 1) for shape in shapes])
    forms = torch.stack([z[..., 0], z[..., 1], z.sum(2), z[..., 0] - z[..., 1]], 2)
    octagon = Octagon(forms.amin(1), forms.amax(1))
    found = all_facets(octagon, pieces_on(operator, octagon), dtype)
    rows = torch.cat([found.before, found.after], 2).double()
    assert bool(rows.isfinite().all() & found.limit.isfinite().all())
    values = torch.cat([z, operator.forward(z)], 2) @ rows.mT
    assert bool((values.amax(1) <= found.limit.double() + 1e-13 * size).all())
    assert bool((found.after[0] != 0).any())  # a neuron and its copy are alike
    assert not bool((found.after[2:4] != 0).any())


METHOD = Optimised(Ascent(iterations=15), every=False)
PAIRED = Optimised(Ascent(iterations=15), every=False, pairing=Pairing(10, 5, 8))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bounds_lie_between_those_without_and_the_exact_minimum(activation: str) -> None:
    """On 32 pairs of network and box: never below alpha-CROWN, often above, never too high."""
    better = 0
    for seed in (1, 3, 0, 2)[: cases(4)]:
        net = dense(activation, seed, scale=2.0)
        x = torch.rand(8, 3, generator=generator(seed), dtype=torch.float64)
        box = Box.around(x, 0.8, None)
        y = net(x).argmax(1)
        graph = trace(net, (3,)).instance()
        other = (y + 1) % 3
        plain, found = (
            method.margins(graph, box, y).gather(1, other[:, None])[:, 0]
            for method in (METHOD, PAIRED)
        )
        for i in range(8):
            exact = exact_minimum(net, box[i : i + 1], int(y[i]), int(other[i]))
            assert plain[i] <= found[i] <= exact + 1e-6
            better += bool(found[i] > plain[i] + 0.01 * (exact - plain[i]) + 1e-9)
    assert better >= cases(11)


def known(net: Network, box: Box) -> Intermediate:
    return Optimised(Ascent(iterations=5), every=False).intermediate(net, box)


def test_two_neurons_reach_the_linear_program_over_their_hull() -> None:
    for seed in range(4):
        g = generator(seed)
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
        for weight in module.parameters():
            weight.data = normal(g, *weight.shape)
        module[0].bias.data *= 0.2
        module[2].weight.data[0] = torch.tensor([-1.0, -0.7]).double()
        module[2].weight.data[1] = 0
        box = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
        net = trace(module, (2,)).instance()
        inter = propagate(net, box)
        rows = margin_rows(torch.tensor([0]), 2, inter.like)
        w, b = (p.detach() for p in (module[0].weight, module[0].bias))
        forms = torch.cat([w, w.sum(0, keepdim=True), w[:1] - w[1:]])
        middle = torch.stack([b[0], b[1], b.sum(), b[0] - b[1]])
        reach = forms.abs().sum(1)
        octagon = Octagon((middle - reach)[None], (middle + reach)[None])
        pieces = pieces_on(ReLU(), octagon)
        found = all_facets(octagon, pieces)
        neurons = torch.tensor([[[0, 1]]]).expand(1, found.limit.shape[1], 2)
        facets = Facets(neurons, found.before, found.after, found.limit)
        tied = Intermediate(net, box, inter.intervals, inter.refined, {}, {2: facets})
        ascent = Ascent(iterations=300, decay=0.98, multiplier_rate=0.2)
        bound = float(optimised_rows(tied, net.output.index, rows, ascent, 2**20))
        plain = float(optimised_rows(inter, net.output.index, rows, ascent, 2**20))
        row = module[2].weight[0].detach()
        bias = module[2].bias.detach()
        shift = float(bias[0] - bias[1])
        exact = shift + _over_hull(found, w, b, octagon, row)
        assert plain - 1e-9 <= bound <= exact + 1e-7
        assert exact - bound <= 2e-3 * max(1.0, abs(exact))


def _over_hull(found: Hull, w: Tensor, b: Tensor, octagon: Octagon, row: Tensor) -> float:
    """Minimise row y over x in [-1, 1]^2 with the triangles of both ReLUs and the facets."""
    eye, none = torch.eye(2).double(), torch.zeros(2, 2).double()
    low, high = octagon.lower[0, :2], octagon.upper[0, :2]
    chord = (high.clamp(min=0) - low.clamp(min=0)) / (high - low)
    above = torch.cat([-chord[:, None] * w, eye], 1)  # y <= relu(l) + chord (z - l)
    a = torch.cat(
        [
            torch.cat([w, -eye], 1),
            torch.cat([none, -eye], 1),
            above,
            torch.cat([found.before[0] @ w, found.after[0]], 1),
        ]
    )
    c = torch.cat(
        [
            -b,
            torch.zeros(2).double(),
            low.clamp(min=0) + chord * (b - low),
            found.limit[0] - found.before[0] @ b,
        ]
    )
    objective = torch.cat([torch.zeros(2).double(), row])
    bounds = [(-1, 1)] * 2 + [(None, None)] * 2
    return float(linprog(objective.numpy(), a.numpy(), c.numpy(), bounds=bounds).fun)


def conv_net(activation: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    make = {
        "relu": lambda shape: nn.ReLU(),
        "leaky": lambda shape: nn.LeakyReLU(0.2),
        "ramp": lambda shape: ParamRamp(shape, eta=0.1, r=0.5),
    }[activation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            nn.Sequential(
                nn.Conv2d(1, 3, 3, padding=1),
                make((3, 7, 7)),
                nn.Conv2d(3, 4, 3, stride=2),
                make((4, 3, 3)),
                nn.Flatten(),
                nn.Linear(36, 8),
                make((8,)),
                nn.Linear(8, 3),
            )
            .to(dtype)
            .requires_grad_(False)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "leaky", "ramp"])
def test_facets_of_a_network_hold_at_its_points(activation: str, dtype: torch.dtype) -> None:
    module = conv_net(activation, 5, dtype)
    net = trace(module, (1, 7, 7)).instance()
    wide = random_box(generator(6), 2, 1, 7, 7, scale=0.3)
    box = Box(wide.lower.to(dtype), wide.upper.to(dtype))
    rows = margin_rows(torch.tensor([0, 1]), 3, box.lower)[:, :1]
    with torch.no_grad():
        tied = paired(known(net, box), rows, Pairing(20, 12, 3), Ascent(), 2**24)
    assert sorted(tied.facets) == [n.index for n in net.nodes if isinstance(n.operator, Activation)]
    double = trace(conv_net(activation, 5, dtype).double(), (1, 7, 7)).instance()
    points = points_of(Box(box.lower.double(), box.upper.double()), generator(7), 300)
    for index, facets in tied.facets.items():
        assert bool(facets.present.any())
        z, y = (
            Network(double.nodes[: at + 1])(points.flatten(0, 1)).flatten(1).view(300, 2, -1)
            for at in (double.nodes[index].inputs[0], index)
        )
        each = facets.neurons.flatten(1).expand(300, -1, -1)
        pairs = [v.gather(2, each).unflatten(2, (-1, 2)) for v in (z, y)]
        sides = (pairs[0] * facets.before.double() + pairs[1] * facets.after.double()).sum(3)
        assert bool((sides <= facets.limit.double() + 1e-6).all())


@pytest.mark.parametrize("activation", ["relu", "leaky", "ramp"])
def test_no_point_undercuts_the_bound_with_splits_at_the_same_time(activation: str) -> None:
    better = 0
    for seed in range(3):
        module = conv_net(activation, seed)
        net = trace(module, (1, 7, 7)).instance()
        g = generator(seed)
        box = random_box(g, 2, 1, 7, 7, scale=0.4)
        points = points_of(box, g, 400)
        values = {
            i: Network(net.nodes[: i + 1])(points.flatten(0, 1)).unflatten(0, (400, 2))
            for i in net.bent()
        }
        cuts = {}
        for i, found in values.items():
            median = found.median(0).values
            which, side = (torch.rand(median.shape, generator=g) < p for p in (0.03, 0.5))
            cuts[i] = Bounds(
                torch.where(which & side, median, -math.inf),
                torch.where(which & ~side, median, math.inf),
            )
        y = torch.tensor([0, 2])
        plain = Optimised(Ascent(10), every=False).margins(net, box, y, cuts)
        method = Optimised(Ascent(10), every=False, pairing=Pairing(20, 12))
        bound = method.margins(net, box, y, cuts)
        logits = net(points.flatten(0, 1)).unflatten(0, (400, 2))
        margins = logits.gather(2, y.expand(400, 2)[..., None]) - logits
        lowest = least_inside(margins, values, cuts)
        finite = bound.isfinite()
        assert bool((bound[finite] <= lowest[finite] + 1e-9).all())
        assert bool((bound >= plain).all())
        better += int((bound > plain + 1e-3).sum())
    assert better > 3


def test_zero_multipliers_change_nothing() -> None:
    net = trace(conv_net("relu", 3), (1, 7, 7)).instance()
    box = random_box(generator(3), 2, 1, 7, 7, scale=0.3)
    rows = margin_rows(torch.tensor([0, 1]), 3, box.lower)
    with torch.no_grad():
        inter = known(net, box)
        tied = paired(inter, rows[:, :1], Pairing(), Ascent(), 2**24)
        assert tied.facets
        for shared in (False, True):
            one, other = (
                optimised_rows(i, net.output.index, rows, Ascent(0, shared=shared), 2**24)
                for i in (inter, tied)
            )
            assert torch.equal(one, other)


def test_without_activations_of_pieces_it_is_alpha_crown() -> None:
    net = trace(dense("sigmoid", 2), (3,)).instance()
    box, y = random_box(generator(2), 3, 3, scale=0.5), torch.tensor([0, 1, 2])
    assert torch.equal(METHOD.margins(net, box, y), PAIRED.margins(net, box, y))


def test_the_strongest_are_kept_with_their_multipliers() -> None:
    net = trace(conv_net("relu", 3), (1, 7, 7)).instance()
    box = random_box(generator(3), 2, 1, 7, 7, scale=0.3)
    rows = margin_rows(torch.tensor([0, 1]), 3, box.lower)[:, :1]
    g = generator(9)
    with torch.no_grad():
        tied = paired(known(net, box), rows, Pairing(), Ascent(), 2**24)
        mixes = {(i, FACET): uniform(g, *f.limit.shape) for i, f in tied.facets.items()}
        for multipliers in mixes.values():
            multipliers[:, 7:] = 0
        fewer, kept = strongest(tied, mixes, 7)
        assert all(f.limit.shape == (2, 7) for f in fewer.facets.values())
        bounds = [
            backward.lower(
                net, net.output.index, rows, i, lines=Mixed(Families(i, "tight"), None, m)
            )
            for i, m in ((tied, mixes), (fewer, kept))
        ]
        assert torch.allclose(*bounds, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(
            bounds[0], backward.lower(net, net.output.index, rows, tied, lines="tight")
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_branch_and_bound_answers_the_same_with_them(activation: str) -> None:
    parts = torch.zeros(2)
    for seed in range(3):
        net = dense(activation, seed, inputs=3)
        box = Box.around(
            torch.rand(1, 3, generator=generator(seed), dtype=torch.float64), 0.3, None
        )
        y = net(box.center).argmax(1)
        exact = min(exact_minimum(net, box, int(y), k) for k in range(3) if k != int(y))
        proved = torch.full((1, 3), -math.inf, dtype=torch.float64).scatter(1, y[:, None], math.inf)
        asked = Question(
            net, trace(net, (3,)).instance(), box, box, y, proved,
            torch.zeros(1, dtype=torch.float64), [math.inf], [0],
        )  # fmt: skip
        for place, facets in enumerate((0, 16)):
            (answer,) = Branch(facets=facets, pixels=0).decide(asked)
            assert answer.bound <= exact + 1e-6
            assert (answer.point is None) == (exact > 0)
            parts[place] += answer.parts
    assert bool(parts.isfinite().all())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="neurons must be at least 2"):
        Pairing(neurons=1)
    with pytest.raises(ConfigError, match="facets must be at least 0"):
        Branch(facets=-1)
