"""TAPS: where networks are cut, what the attacks find, and which gradients come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from bound_formulas import at, ball, batch, chain, ibp, layers_of, losses, through
from torch import Tensor, nn

from taut.bounds import Bounds
from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.training import IBP, METHODS, TAPS, Progress, SmallBox, TrainingAttack, choose
from taut.training.bound.connector import connect
from taut.training.bound.split import cut_node, tail

EPS = 0.15
SIZES = (4, 7, 6, 5, 3)
THOROUGH = TrainingAttack(steps=20, step=0.4, milestones=(14,), restarts=10)


class Residual(nn.Module):
    """An activation, two branches with one each, and one behind their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left = nn.Linear(4, 5), nn.Linear(5, 5)
        self.right, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x).relu()
        return self.last((self.left(z).relu() + self.right(z).relu()).relu())


# --- the connector ----------------------------------------------------------------------------


def share(x: float, low: float, high: float, c: float) -> tuple[float, float]:
    """Derivatives with respect to the lower and the upper end, one number at a time."""
    if low == high:
        return 0.5, 0.5
    if c == 0.0:
        return float(x == low), float(x == high)
    reach = c * (high - low)
    return max(0.0, 1 - (x - low) / reach), max(0.0, 1 - (high - x) / reach)


@pytest.mark.parametrize("c", [0.0, 0.2, 0.5, 1.0])
def test_the_connector_is_its_formula(c: float) -> None:
    low = torch.tensor([[0.0, -1.0, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([[1.0, 3.0, 0.5, 2.5]], dtype=torch.float64, requires_grad=True)
    at_ = torch.tensor([0.0, 0.05, 0.3, 0.5, 0.8, 0.95, 1.0], dtype=torch.float64)
    points = (low + at_[:, None] * (high - low)).detach()[None]
    points[:, -1] = high.detach()
    linked = connect(points, low, high, c)
    assert torch.equal(linked, points)
    weight = torch.randn(points.shape, dtype=torch.float64)
    to_low, to_high = torch.autograd.grad((weight * linked).sum(), [low, high])
    low, high = low.detach(), high.detach()
    for i in range(4):
        ends = float(low[0, i]), float(high[0, i])
        pairs = [share(float(points[0, r, i]), *ends, c) for r in range(len(at_))]
        expected = [
            sum(float(weight[0, r, i]) * p[side] for r, p in enumerate(pairs)) for side in (0, 1)
        ]
        assert float(to_low[0, i]) == pytest.approx(expected[0], abs=1e-12)
        assert float(to_high[0, i]) == pytest.approx(expected[1], abs=1e-12)


def test_with_threshold_1_it_is_the_derivative_of_a_fixed_mix_of_both_ends() -> None:
    """The one threshold at which the connector is a derivative: finite differences agree."""
    low, high = torch.rand(2, 5, dtype=torch.float64), 1 + torch.rand(2, 5, dtype=torch.float64)
    mix = torch.rand(2, 3, 5, dtype=torch.float64)
    weight = torch.randn(2, 3, 5, dtype=torch.float64)

    def value(low: Tensor, high: Tensor) -> Tensor:
        points = low[:, None] + mix * (high - low)[:, None]
        return (weight * points.sin()).sum()

    ends = [low.clone().requires_grad_(), high.clone().requires_grad_()]
    points = low[:, None] + mix * (high - low)[:, None]
    found = torch.autograd.grad((weight * connect(points, *ends, 1.0).sin()).sum(), ends)
    for side, gradient in enumerate(found):
        for index in ((0, 0), (1, 3)):
            step = torch.zeros_like(low)
            step[index] = 1e-6
            moved = [(low + s * step * (1 - side), high + s * step * side) for s in (1, -1)]
            slope = (value(*moved[0]) - value(*moved[1])) / 2e-6
            torch.testing.assert_close(gradient[index], slope, rtol=1e-7, atol=1e-8)


# --- the cut ----------------------------------------------------------------------------------


def test_a_chain_is_cut_behind_its_activations() -> None:
    model, (x, _) = chain(*SIZES), batch()
    network = trace(model, (4,)).instance()
    for split in range(4):
        for asked in (split, split - 3):
            if asked == 0 != split:
                continue
            part = tail(network, cut_node(network, asked))
            value = model[: 2 * split](x)
            torch.testing.assert_close(part(value), model(x), rtol=0, atol=1e-14)
            assert part.input_shape == value.shape[1:]


def test_a_network_with_branches_is_cut_where_one_node_separates() -> None:
    torch.manual_seed(0)
    model = Residual().double()
    network = trace(model, (4,)).instance()
    x = torch.rand(3, 4, dtype=torch.float64)
    behind = model.first(x).relu()
    assert torch.equal(tail(network, cut_node(network, 1))(behind), model(x))
    joined = model.left(behind).relu() + model.right(behind).relu()
    torch.testing.assert_close(tail(network, cut_node(network, 3))(joined), model(x))
    assert tail(network, cut_node(network, -1)).input_shape == (5,)
    with pytest.raises(ConfigError, match=r"method\.split is 2.*branches.*0, 1, 3, 4"):
        cut_node(network, 2)
    for split in (5, -5):
        with pytest.raises(ConfigError, match=r"has 4 activations; choose -4 to 4"):
            cut_node(network, split)


def test_modules_of_the_literature_translate_into_activations() -> None:
    """The CNN7 with batch norm: its first 17 modules hold five ReLUs, its first 4 one."""
    layers: list[nn.Module] = [nn.Identity()]
    for before in (1, 2, 2, 2, 2):
        layers += [nn.Conv2d(before, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    model = nn.Sequential(*layers).double().eval()
    network = trace(model, (1, 4, 4)).instance()
    assert len(model) == 21
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    for modules, split in ((17, 5), (4, 1), (10, 3), (13, 4)):
        part = tail(network, cut_node(network, split))
        value = model[:modules](x).reshape(3, *part.input_shape)
        torch.testing.assert_close(part(value), model(x), rtol=1e-12, atol=1e-12)


# --- the loss ---------------------------------------------------------------------------------


def latent(model: nn.Sequential, x: Tensor, split: int) -> tuple[Tensor, Tensor]:
    """The box that intervals give behind ``split`` ReLUs."""
    low, high = ball(x, EPS)
    for layer in layers_of(model)[:split]:
        below, above = through(layer, low, high)
        low, high = below.relu(), above.relu()
    return low, high


def found_points(bound: TAPS, model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The points the attacks find, one for each wrong class."""
    network = trace(model, (4,)).instance()
    rest = tail(network, cut_node(network, bound.split)).detached()
    low, high = latent(model, x, bound.split)
    return bound._points(rest, Bounds(low.detach(), high.detach()), y, at(EPS))


@pytest.mark.parametrize("relu_shrinkage", [1.0, 0.8])
def test_with_everything_before_the_cut_it_is_ibp(relu_shrinkage: float) -> None:
    model, (x, y) = chain(*SIZES), batch()
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    bound = TAPS(split=3, multiply=False, relu_shrinkage=relu_shrinkage, ramp_by_ibp=False)
    found = bound.bounded(network, box, y, at(EPS))
    low, high = ball(x, EPS)
    expected = losses(ibp(layers_of(model), low, high, y, relu_shrinkage))
    torch.testing.assert_close(found.losses, expected, rtol=1e-11, atol=1e-11)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.losses.sum(), parameters, retain_graph=True),
        torch.autograd.grad(expected.sum(), parameters, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    both = replace(bound, multiply=True, scale=1.0).bounded(network, box, y, at(EPS)).losses
    torch.testing.assert_close(both.mean(), expected.mean() ** 2, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("split", [0, 1, 2, -1])
def test_estimates_lie_between_the_bound_and_the_margin_at_the_image(split: int) -> None:
    model, (x, y) = chain(*SIZES), batch()
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    bound = TAPS(split=split, search=THOROUGH, ramp_by_ibp=False)
    found = bound.bounded(network, box, y, at(EPS))
    plain = IBP().bounded(network, box, y, at(EPS))
    logits = model(x)
    margins = logits.gather(1, y[:, None]) - logits
    wrong = ~F.one_hot(y, 3).bool()
    assert bool((found.margins[wrong] >= plain.margins[wrong] - 1e-9).all())
    assert bool((found.margins[wrong] <= margins[wrong] + 1e-9).all())
    assert bool((found.margins[~wrong] == torch.inf).all())
    assert not found.sound
    assert plain.sound


def test_the_attacks_come_close_to_the_best_of_many_samples() -> None:
    model, (x, y) = chain(*SIZES), batch()
    bound = TAPS(split=1, search=THOROUGH, ramp_by_ibp=False)
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    found = bound.bounded(network, box, y, at(EPS)).margins
    low, high = latent(model, x, 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2000, *low.shape, generator=generator, dtype=torch.float64).round()
    logits = model[2:]((low + noise * (high - low)).flatten(0, 1)).view(2000, len(x), 3)
    margins = logits.gather(2, y.expand(2000, -1)[:, :, None]) - logits
    assert bool(
        (found <= margins.amin(0).masked_fill(F.one_hot(y, 3).bool(), torch.inf) + 1e-3).all()
    )


@pytest.mark.parametrize(("scale", "c"), [(1.0, 0.5), (5.0, 0.5), (4.0, 1.0)])
def test_loss_and_gradient_equal_the_formula(scale: float, c: float) -> None:
    model, (x, y) = chain(*SIZES), batch()
    bound = TAPS(split=2, scale=scale, threshold=c, ramp_by_ibp=False)
    network, box = trace(model, (4,)).instance(), Box.around(x, EPS)
    found = bound.bounded(network, box, y, at(EPS))
    parameters = list(model.parameters())
    points = found_points(bound, model, x, y).requires_grad_()
    estimated = []
    for i, label in enumerate(y.tolist()):
        others = [j for j in range(3) if j != label]
        logits = torch.stack([model[4:](points[i, r]) for r in range(2)])
        estimated.append(
            torch.stack([logits[r, label] - logits[r, j] for r, j in enumerate(others)])
        )
    by_points = losses(estimated).mean()
    low, high = ball(x, EPS)
    by_ibp = losses(ibp(layers_of(model), low, high, y)).mean()
    torch.testing.assert_close(found.losses.mean(), by_points * by_ibp, rtol=1e-11, atol=1e-11)
    # the product's gradient, its first part through the second network and through the box
    low, high = latent(model, x, 2)
    (by_point,) = torch.autograd.grad(by_points, points, retain_graph=True)
    width = c * (high - low)[:, None]
    wide = width > 0
    to_low = torch.where(wide, (1 - (points - low[:, None]) / width).clamp(min=0), 0.5)
    to_high = torch.where(wide, (1 - (high[:, None] - points) / width).clamp(min=0), 0.5)
    surrogate = (by_point * to_low).sum(1).detach() * low + (by_point * to_high).sum(
        1
    ).detach() * high
    first = by_points + surrogate.sum()
    total = scale * by_ibp.detach() * first + by_points.detach() * by_ibp
    for a, b in zip(
        torch.autograd.grad(found.losses.mean(), parameters),
        torch.autograd.grad(total, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_gradients_of_shares_average_to_that_of_the_whole_batch() -> None:
    model, (x, y) = chain(*SIZES), batch()
    parameters, graph = list(model.parameters()), trace(model, (4,))
    bound, means = TAPS(split=2, ramp_by_ibp=False), list[Tensor]()

    def gradients(rows: slice, average: object) -> tuple[Tensor, ...]:
        progress = at(EPS)
        assert progress.seeds is not None
        progress = replace(progress, seeds=progress.seeds[rows], average=average)
        found = bound.bounded(graph.instance(), Box.around(x[rows], EPS), y[rows], progress)
        return torch.autograd.grad(found.losses.mean(), parameters)

    def noted(value: Tensor) -> Tensor:
        means.append(value)
        return value

    whole = gradients(slice(0, 6), noted)
    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        waiting = iter(means)
        halves.append(gradients(rows, lambda _, waiting=waiting: next(waiting)))
    for a, b, c in zip(whole, *halves, strict=True):
        torch.testing.assert_close(a, (b + c) / 2, rtol=1e-9, atol=1e-9)


def test_while_eps_ramps_it_is_ibp() -> None:
    model, (x, y) = chain(*SIZES), batch()
    graph = trace(model, (4,))
    taps = METHODS["taps"].method.loss(graph, x, y, at(0.1, 0.2)).total
    plain = METHODS["ibp-shi"].method.loss(graph, x, y, at(0.1, 0.2)).total
    assert torch.equal(taps, plain)
    over = METHODS["taps"].method.loss(graph, x, y, at(0.2, 0.2))
    assert not torch.equal(over.total, METHODS["ibp-shi"].method.loss(graph, x, y, at(0.2)).total)
    assert not over.bounded[0].sound
    staps = METHODS["staps"].method.loss(graph, x, y, at(0.1, 0.2)).total
    assert torch.equal(staps, METHODS["sabr"].method.loss(graph, x, y, at(0.1, 0.2)).total)


def test_staps_is_taps_over_the_small_box() -> None:
    model, (x, y) = chain(*SIZES), batch()
    graph = trace(model, (4,))
    method = choose("staps", {"split": 1, "ratio": 0.5, "search": {"steps": 5}})
    found = method.loss(graph, x, y, at(EPS)).total
    low, high = ball(x, EPS)
    point = SmallBox().attack.climb(graph.instance(), x, y, Box(low, high), at(EPS))
    tau = 0.5 * (high - low) / 2
    middle = torch.minimum(torch.maximum(point, low + tau), high - tau)
    bound = TAPS(split=1, search=TrainingAttack(steps=5, step=0.4, milestones=(14,)))
    small = Box(middle - tau, middle + tau)
    expected = bound.bounded(graph.instance(), small, y, at(EPS)).losses.mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_points_of_an_image_do_not_depend_on_the_rest_of_the_batch() -> None:
    model, (x, y) = chain(*SIZES), batch()
    network = trace(model, (4,)).instance()
    bound = TAPS(split=1, multiply=False, ramp_by_ibp=False)
    whole = bound.bounded(network, Box.around(x, EPS), y, at(EPS)).margins
    few = Progress(step=0, epoch=1, eps=EPS, eps_max=EPS, seeds=torch.arange(6)[2:4] + 100)
    part = bound.bounded(network, Box.around(x[2:4], EPS), y[2:4], few).margins
    torch.testing.assert_close(part, whole[2:4], rtol=1e-12, atol=1e-12)


def test_fields_out_of_range_are_refused() -> None:
    for fields in ({"scale": 0.0}, {"threshold": 1.5}, {"relu_shrinkage": 0.0}):
        with pytest.raises(ConfigError, match=rf"method\.{next(iter(fields))}"):
            TAPS(**fields)
    with pytest.raises(ConfigError, match=r"method\.search"):
        TAPS(search=TrainingAttack(scale=2.0))
