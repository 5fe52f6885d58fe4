"""What the papers prove of the methods, on random networks and against exact solvers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import LinearConstraint, linprog, milp
from torch import Tensor, nn

from taut.bounds import (
    IBP,
    Ascent,
    Backward,
    BoundMethod,
    BudgetError,
    Intermediate,
    Optimised,
    backward,
    propagate,
)
from taut.bounds.optimised import Families, Mixed
from taut.graph import Network, trace
from taut.operators.ramp import ParamRamp
from taut.property import margin_rows, pad_true_class
from taut.region import Box, LpBall
from tests.counts import cases
from tests.soundness.harness import (
    SEEDS,
    evaluate,
    generator,
    labelled_boxes,
    least_margins,
    normal,
    points_of,
    random_box,
    uniform,
)

WIDTHS = (5, 8, 6, 7, 4)


def ramp(shape: tuple[int, ...]) -> nn.Module:
    made = ParamRamp(shape, eta=0.1)
    nn.init.uniform_(made.r, 0.2, 1.5)
    return made


ACTIVATIONS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "relu": lambda shape: nn.ReLU(),
    "leaky-relu": lambda shape: nn.LeakyReLU(0.1),
    "param-ramp": ramp,
    "sigmoid": lambda shape: nn.Sigmoid(),
    "tanh": lambda shape: nn.Tanh(),
}


def network(activation: str, seed: int, hidden: int = 3) -> Network:
    """Return a random float64 network of one to three hidden layers, one in three convolutional."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        if seed % 3 == 0:
            shape: tuple[int, ...] = (1, 5, 4)
            layers += [nn.Conv2d(1, 3, 3, 2, 1), make((3, 3, 2)), nn.Flatten(), nn.Linear(18, 6)]
            layers += [make((6,)), nn.Linear(6, 4)]
        else:
            depth = 1 + seed % hidden
            shape = (WIDTHS[0],)
            for before, after in itertools.pairwise(WIDTHS[: depth + 1]):
                layers += [nn.Linear(before, after), make((after,))]
            layers.append(nn.Linear(WIDTHS[depth], 4))
        module = nn.Sequential(*layers).double()
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.data.mul_(2)
    return trace(module, shape).instance().detached()


def setting(activation: str, seed: int) -> tuple[Network, Box, Tensor]:
    net = network(activation, seed)
    return net, *labelled_boxes(net, seed, 3, scale=(0.05, 0.3, 1.0)[seed % 3])


def never_below(high: Tensor, low: Tensor) -> bool:
    """Whether margins are at least others, up to rounding; the true column aside."""
    others = torch.isfinite(low)
    return bool((high[others] >= low[others] - 1e-9 * (1 + low[others].abs())).all())


def tight(before: str, depth: int | None = None, *, published: bool = False) -> BoundMethod:
    return Backward(before, "tight", depth, intersect=not published)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_five_methods_are_ordered_with_tight_lines(activation: str) -> None:
    """IBP <= LBP, CROWN-IBP <= CROWN-LBP <= CROWN on 200 random networks."""
    for seed in range(cases(200)):
        net, box, y = setting(activation, seed)
        ibp = IBP().margins(net, box, y)
        crown_ibp = tight("ibp").margins(net, box, y)
        for published in (False, True):
            lbp = tight("lbp", 1, published=published).margins(net, box, y)
            crown_lbp = tight("lbp", published=published).margins(net, box, y)
            crown = tight("crown", published=published).margins(net, box, y)
            for low, high in (
                (ibp, lbp),
                (ibp, crown_ibp),
                (lbp, crown_lbp),
                (crown_ibp, crown_lbp),
                (crown_lbp, crown),
            ):
                assert bool((low <= high + 1e-9 * (1 + high.abs())).all()), (seed, published)


def test_adaptive_lines_break_the_order() -> None:
    """With a lower slope of 1 a published bound can be far below IBP's."""
    worst = 0.0
    for seed in range(60):
        net, box, y = setting("relu", seed)
        ibp = IBP().margins(net, box, y)
        other = Backward("lbp", "adaptive", 1, intersect=False).margins(net, box, y)
        finite = torch.isfinite(ibp)
        worst = max(worst, float((ibp - other)[finite].max()))
    assert worst > 1.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_depth_spans_from_lbp_to_crown(activation: str) -> None:
    """Relaxed-CROWN-1 is LBP, Relaxed-CROWN of full depth is CROWN."""
    for seed in range(40):
        net, box, y = setting(activation, seed)
        deepest = max(net.depths())
        one, whole = (tight("crown", v, published=True).margins(net, box, y) for v in (1, deepest))
        lbp = tight("lbp", 1, published=True).margins(net, box, y)
        crown = tight("crown", published=True).margins(net, box, y)
        torch.testing.assert_close(one, lbp, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(whole, crown, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_constant_lines_reproduce_ibp_carried_either_way(activation: str, seed: int) -> None:
    net, box, y = setting(activation, seed)
    ibp = IBP().margins(net, box, y)
    for method in (
        Backward("lbp", "constant", 1, intersect=False),
        Backward("lbp", "constant", intersect=False),
        Backward("crown", "constant", intersect=False),
        Backward("crown", "constant", 1, intersect=False),
        Backward("ibp", "constant", 1),
    ):
        torch.testing.assert_close(method.margins(net, box, y), ibp, rtol=1e-9, atol=1e-9)


def test_linear_bounds_do_not_depend_on_the_budget() -> None:
    """Input pixels in pieces, images one by one: the same bounds."""
    net, box, y = setting("relu", 3)
    for depth in (1, None):
        whole = Backward("lbp", depth=depth, budget=2**30).margins(net, box, y)
        for budget in (1, 5000, 20_000):
            split = Backward("lbp", depth=depth, budget=budget).margins(net, box, y)
            torch.testing.assert_close(whole, split, rtol=1e-11, atol=1e-11)
    whole = Backward("crown", depth=1, budget=2**30).margins(net, box, y)
    split = Backward("crown", depth=1, budget=100_000).margins(net, box, y)
    torch.testing.assert_close(whole, split, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=cases(8), deadline=None)
@given(seed=SEEDS)
def test_optimised_lines_start_at_crown_and_only_gain(activation: str, seed: int) -> None:
    net, box, y = setting(activation, seed)
    for start in ("adaptive", "tight"):
        crown = Backward("crown", start).margins(net, box, y)
        still = Optimised(Ascent(iterations=0, start=start)).margins(net, box, y)
        torch.testing.assert_close(still, crown, rtol=1e-9, atol=1e-9)
        final = Optimised(Ascent(iterations=5, start=start), every=False).margins(net, box, y)
        assert never_below(final, crown)


def mixed_margins(net: Network, inter: Intermediate, y: Tensor, mix: float | None) -> Tensor:
    """Return margins with every free line at one mix, or at random ones."""
    rows = margin_rows(y, net.classes, inter.like)
    batch, count = rows.shape[:2]
    samples = torch.arange(batch).repeat_interleave(count)
    mixed = Mixed(Families(inter, "tight"), None)

    def bound() -> Tensor:
        flat = rows.flatten(0, 1).unsqueeze(1)
        found = backward.lower(net, net.output.index, flat, inter, lines=mixed, samples=samples)
        return pad_true_class(found.view(batch, count).detach(), y)

    bound()
    for value in mixed.own.values():
        if mix is None:
            value.data.uniform_(0, 1, generator=generator(int(value.numel())))
        else:
            value.data.fill_(mix)
    return bound()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=cases(8), deadline=None)
@given(seed=SEEDS)
def test_every_mix_of_lines_is_sound_and_its_ends_are_the_families(
    activation: str, seed: int
) -> None:
    net, box, y = setting(activation, seed)
    inter = propagate(net, box)
    logits = evaluate(net, points_of(box, generator(seed)))
    least = least_margins(logits, y)
    slack = 1e-10 * (1 + logits.abs().amax())
    for mix in (None, 0.3, 1.0):
        assert bool((mixed_margins(net, inter, y, mix) <= least + slack).all())
    for mix, family in ((0.0, "zero"), (1.0, "one")):
        torch.testing.assert_close(
            mixed_margins(net, inter, y, mix),
            backward.margins(net, inter, y, family),
            rtol=1e-9,
            atol=1e-9,
        )


def one_layer(seed: int, width: int = 6) -> tuple[nn.Sequential, Box, int, int]:
    """Return a random net of two hidden layers, one box, and a pair of classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        ).double()
        for weight in module.parameters():
            weight.data.mul_(2)
    box = random_box(generator(seed), 1, 3, scale=0.5)
    y = int(module(box.center).argmax())
    return module, box, y, (y + 1) % 3


def relaxed_minimum(
    module: nn.Sequential, box: Box, inter: Intermediate, y: int, other: int, *, exact: bool
) -> float:
    """Minimise a margin over the triangle relaxation, or exactly with one binary a neuron."""
    layers = [m for m in module if isinstance(m, nn.Linear)]
    sizes = [3] + [len(m.bias) for m in layers[:-1]]
    hidden = sum(sizes[1:])
    starts = list(itertools.accumulate(sizes, initial=0))
    total = starts[-1] + hidden  # x, activations, then a binary each
    low, high = np.zeros(total), np.full(total, np.inf)
    low[:3], high[:3] = box.lower[0].numpy(), box.upper[0].numpy()
    high[starts[-1] :] = 1
    rows: list[np.ndarray] = []
    ends: list[float] = []
    for depth, layer in enumerate(layers[:-1]):
        w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        known = inter.at(1 + 2 * depth)
        l, u = known.lower[0].numpy(), known.upper[0].numpy()  # noqa: E741
        before = slice(starts[depth], starts[depth + 1])
        for i in range(len(b)):
            at, switch = starts[depth + 1] + i, starts[-1] + starts[depth + 1] - 3 + i
            row = np.zeros(total)
            row[before], row[at] = w[i], -1.0  # a >= w x + b
            rows.append(row)
            ends.append(-b[i])
            row = np.zeros(total)
            row[before], row[at] = -w[i], 1.0  # a <= w x + b - l (1 - d)
            row[switch] = -min(l[i], 0)
            rows.append(row)
            ends.append(b[i] - min(l[i], 0))
            row = np.zeros(total)
            row[at], row[switch] = 1.0, -max(u[i], 0)  # a <= u d
            rows.append(row)
            ends.append(0.0)
    last = layers[-1]
    cost = np.zeros(total)
    cost[starts[-2] : starts[-1]] = (last.weight[y] - last.weight[other]).detach().numpy()
    shift = float((last.bias[y] - last.bias[other]).detach())
    if exact:
        kinds = np.zeros(total)
        kinds[starts[-1] :] = 1
        found = milp(
            cost,
            constraints=LinearConstraint(np.stack(rows), -np.inf, np.array(ends)),
            integrality=kinds,
            bounds=(low, high),
        )
    else:
        bounds = list(zip(low, high, strict=True))
        found = linprog(cost, np.stack(rows), np.array(ends), bounds=bounds)
    assert found.status == 0
    return float(found.fun) + shift


def pattern_minimum(module: nn.Sequential, box: Box, y: int, other: int) -> float:
    """Minimise a margin by one linear program for each pattern of active neurons."""
    first, second, last = (m for m in module if isinstance(m, nn.Linear))
    best = math.inf
    width = len(first.bias)
    w1, b1 = first.weight.detach().numpy(), first.bias.detach().numpy()
    w2, b2 = second.weight.detach().numpy(), second.bias.detach().numpy()
    row = (last.weight[y] - last.weight[other]).detach().numpy()
    shift = float((last.bias[y] - last.bias[other]).detach())
    bounds = list(zip(box.lower[0].tolist(), box.upper[0].tolist(), strict=True))
    for one in itertools.product((0.0, 1.0), repeat=width):
        on = np.array(one)
        z2, c2 = w2 @ (on[:, None] * w1), w2 @ (on * b1) + b2
        for two in itertools.product((0.0, 1.0), repeat=width):
            also = np.array(two)
            a = np.concatenate([(1 - 2 * on)[:, None] * w1, (1 - 2 * also)[:, None] * z2])
            c = -np.concatenate([(1 - 2 * on) * b1, (1 - 2 * also) * c2])
            found = linprog((row * also) @ z2, a, c, bounds=bounds)
            if found.status == 0:
                best = min(best, float(found.fun) + float((row * also) @ c2) + shift)
    return best


def test_exact_solvers_agree_and_bound_everything() -> None:
    """Enumeration of patterns = MIP >= LP >= alpha-CROWN >= CROWN on the same layer bounds."""
    for seed in range(4):
        module, box, y, other = one_layer(seed, width=3)
        net = trace(module, (3,)).instance()
        inter = Optimised(Ascent(iterations=0)).intermediate(net, box)
        exact = relaxed_minimum(module, box, inter, y, other, exact=True)
        assert math.isclose(exact, pattern_minimum(module, box, y, other), abs_tol=1e-6)


def test_optimised_lines_close_half_of_the_gap() -> None:
    """LP >= alpha-CROWN >= CROWN; of the way from CROWN to the exact minimum, half on average."""
    closed = []
    for seed in range(cases(100)):
        module, box, y, other = one_layer(seed)
        net = trace(module, (3,)).instance()
        label = torch.tensor([y])
        crown = float(Backward("crown", "adaptive").margins(net, box, label)[0, other].detach())
        same = Optimised(Ascent(iterations=20), every=False)
        final = float(same.margins(net, box, label)[0, other])
        full = float(Optimised(Ascent(iterations=20)).margins(net, box, label)[0, other])
        inter = Optimised(Ascent(iterations=0)).intermediate(net, box)
        lp = relaxed_minimum(module, box, inter, y, other, exact=False)
        exact = relaxed_minimum(module, box, inter, y, other, exact=True)
        assert crown <= final + 1e-9
        assert final <= lp + 1e-6
        assert lp <= exact + 1e-6
        assert full <= exact + 1e-6
        if exact - crown > 1e-3:
            closed.append((full - crown) / (exact - crown))
    assert len(closed) > cases(30)
    assert sum(closed) / len(closed) >= 0.5


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clipped", [True, False])
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_every_method_covers_a_ball(clipped: bool, p: int, seed: int) -> None:
    """Sound on balls, never below the bound over the enclosing box, exact on a linear net."""
    g = generator(seed)
    net = network("relu", seed)
    x = uniform(g, 3, *net.input_shape)
    ball = LpBall.around(x, 0.4, p, (0.0, 1.0) if clipped else None)
    y = net(x).argmax(1)
    many = ball[torch.arange(3).repeat(100)]
    points = many.project(x.repeat(100, *[1] * (x.dim() - 1)) + 2 * normal(g, 300, *x.shape[1:]))
    least = least_margins(evaluate(net, points.unflatten(0, (100, 3))), y)
    for method in (IBP(), tight("ibp"), tight("lbp", 1), tight("crown"), tight("crown", 1)):
        found = method.margins(net, ball, y)
        assert bool((found <= least + 1e-9).all())
        boxed = method.margins(net, ball.box, y)
        assert never_below(found, boxed)


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("clipped", [True, False])
def test_a_linear_net_reaches_the_exact_optimum_over_a_ball(clipped: bool, p: str) -> None:
    g = generator(7)
    module = nn.Linear(6, 4).double()
    net = trace(module, (6,)).instance()
    x = uniform(g, 5, 6)
    ball = LpBall.around(x, 0.5, p, (0.0, 1.0) if clipped else None)
    y = module(x).argmax(1)
    expected = pad_true_class(ball.minimum(margin_rows(y, 4, x) @ module.weight), y)
    bias = module.bias[y][:, None] - module.bias
    for method in (IBP(), tight("ibp"), tight("lbp", 1), tight("crown"), Optimised()):
        found = method.margins(net, ball, y)
        torch.testing.assert_close(found, expected + bias, rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_the_budget_is_refused() -> None:
    """Caught at the budget, not by the operating system; also a MemoryError, for a cascade."""
    net, box, y = setting("relu", 3)
    ball = LpBall.around(uniform(generator(1), 3, *net.input_shape), 0.4, 2)
    with pytest.raises(BudgetError, match=r"over a ball need .* MB an image, above"):
        Backward("lbp", depth=1, budget=10).margins(net, ball, y)
    with pytest.raises(MemoryError, match="above the budget of 0 MB; raise it, or choose"):
        Backward("crown", depth=1, budget=10).margins(net, box, y)
