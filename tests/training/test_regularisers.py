"""Terms added to the loss: values and gradients from the formulas, and when they are on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import blobs, tiny_net

from taut.errors import ConfigError
from taut.graph import trace
from taut.models import Normalise, ParamRamp
from taut.region import Box
from taut.training import (
    IBP,
    METHODS,
    DivergenceError,
    EpsRamp,
    GridPoint,
    Losses,
    Mix,
    Natural,
    PGDTraining,
    Progress,
    Regularisers,
    Settings,
    fit,
)
from taut.training.regularise import balance, l1, tightness

TAU = 0.5


def mlp(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(4, 8)]
    if norm:
        layers.append(nn.BatchNorm1d(8))
    layers += [nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).double()


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.rand(count, 1, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 3


def at(eps: float, eps_max: float = 0.1, **fields: Any) -> Progress:
    return Progress(step=9, epoch=2, eps=eps, eps_max=eps_max, **fields)


def hidden(
    model: nn.Sequential, x: Tensor, eps: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Mean radius of the clipped box and (l, u) of every ReLU, layer by layer, by hand."""
    value, low, high = x, (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    start, found = (high - low).mean() / 2, []
    for module in model:
        if isinstance(module, nn.Linear):
            positive, negative = module.weight.clamp(min=0), module.weight.clamp(max=0)
            low, high = (
                low @ positive.T + high @ negative.T + module.bias,
                high @ positive.T + low @ negative.T + module.bias,
            )
            value = module(value)
        elif isinstance(module, nn.BatchNorm1d):
            mean, var = value.mean(0), value.var(0, unbiased=False)
            gain = module.weight / torch.sqrt(var + module.eps)
            shift = module.bias - gain * mean
            value = gain * value + shift
            ends = torch.stack([gain * low + shift, gain * high + shift])
            low, high = ends.amin(0), ends.amax(0)
        else:
            if isinstance(module, nn.ReLU):
                found.append((low, high))
            value, low, high = module(value), module(low), module(high)
    return start, found


def tight_by_hand(start: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    terms = [(TAU - start / ((b - a) / 2).mean()).clamp(min=0) / TAU for a, b in layers]
    return torch.stack(terms).sum() / len(layers)


def balance_by_hand(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for low, high in layers:
        centre = (high + low) / 2
        active, inactive = (low > 0).double(), (high < 0).double()
        if active.sum() == 0 or inactive.sum() == 0:
            continue
        a = (centre * active).mean() / -(centre * inactive).mean()
        square = (centre - centre.mean()) ** 2
        v = (square * active).sum() / (square * inactive).sum()
        for ratio in (a, v):
            total = total + (TAU - torch.minimum(ratio, 1 / ratio)).clamp(min=0) / TAU
    return total / len(layers)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("eps", [0.02, 0.04])
def test_terms_and_gradients_equal_the_formulas(norm: bool, eps: float) -> None:
    model, (x, y) = mlp(norm), batch()
    with torch.no_grad():  # wide, and with more active neurons than inactive ones
        model[1].weight *= 3.0
        model[-3].weight *= 3.0
        model[-3].bias += 1.0
    losses = GridPoint(bound=IBP(), combination=Mix()).loss(trace(model, (1, 2, 2)), x, y, at(eps))
    terms = Regularisers(shi=0.7).terms(losses, model, at(eps))
    start, layers = hidden(model, x, eps)
    weight = 0.7 * (1 - eps / 0.1)
    expected = {
        "tightness": weight * tight_by_hand(start, layers),
        "balance": weight * balance_by_hand(layers),
    }
    assert terms.keys() == expected.keys()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, value in expected.items():
        assert float(value.detach()) > 0, "a term that is zero tells nothing"
        torch.testing.assert_close(terms[name], value, rtol=1e-10, atol=1e-12)
        found, wanted = (
            torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
            for term in (terms[name], value)
        )
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_layer_with_an_empty_side_adds_nothing_and_still_counts() -> None:
    model, (x, y) = mlp(), batch()
    with torch.no_grad():
        model[1].bias += 50.0  # every neuron of the first layer is active
    graph = trace(model, (1, 2, 2))
    known = IBP().bounded(graph.instance(), Box.around(x, 0.001), y, at(0.001)).intermediate
    _, layers = hidden(model, x, 0.001)
    second = balance_by_hand(layers[1:])
    value = balance(known, TAU)
    torch.testing.assert_close(value, second / 2, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        model[3].bias += 500.0
    known = IBP().bounded(graph.instance(), Box.around(x, 0.001), y, at(0.001)).intermediate
    value = balance(known, TAU)
    assert float(value.detach()) == 0.0
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)


def test_tightness_punishes_growth_and_not_shrinking() -> None:
    x, y = batch()
    for gain, expected in ((1.0, 0.0), (4.0, 1.0 - 0.25 / TAU)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
        with torch.no_grad():
            model[1].weight.copy_(gain * torch.eye(4))
        known = (
            IBP()
            .bounded(trace(model, (1, 2, 2)).instance(), Box.around(x, 0.05), y, at(0.05))
            .intermediate
        )
        assert tightness(known, TAU).item() == pytest.approx(expected, abs=1e-12)


def test_growth_is_measured_from_behind_the_normalisation() -> None:
    """Whether images are normalised in the model or before it, the terms are the same."""
    x, y = batch()
    plain, std = mlp(), 0.2
    inside = nn.Sequential(Normalise([0.4], [std]).double(), *plain)
    box = Box.around(x, 0.01, None)
    outside = Box((box.lower - 0.4) / std, (box.upper - 0.4) / std)
    known = [
        IBP().bounded(trace(net, (1, 2, 2)).instance(), region, y, at(0.01)).intermediate
        for net, region in ((inside, box), (plain, outside))
    ]
    for term in (tightness, balance):
        torch.testing.assert_close(term(known[0], TAU), term(known[1], TAU))
    start = torch.tensor(0.01 / std, dtype=torch.float64)
    layers = [(i.lower, i.upper) for i in known[0].activations()]
    torch.testing.assert_close(tightness(known[0], TAU), tight_by_hand(start, layers))


def test_an_epoch_without_eps_uses_a_tiny_ball() -> None:
    model, (x, y) = mlp(), batch()
    graph, progress = trace(model, (1, 2, 2)), at(0.0, natural_only=True)
    start, layers = hidden(model, x, 1e-6)
    for losses in (
        GridPoint().loss(graph, x, y, progress),
        GridPoint().loss(graph, x, y, at(0.0)),  # a first step of the ramp, with bounds of eps 0
    ):
        terms = Regularisers(shi=0.5).terms(losses, model, progress)
        torch.testing.assert_close(
            terms["tightness"], 0.5 * tight_by_hand(start, layers), rtol=1e-5, atol=1e-8
        )
        torch.testing.assert_close(
            terms["balance"], 0.5 * balance_by_hand(layers), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize(("eps", "eps_max"), [(0.1, 0.1), (0.0, 0.0)])
def test_at_full_eps_nothing_is_computed(eps: float, eps_max: float) -> None:
    model, (x, y) = mlp(), batch()
    losses = Natural().loss(trace(model, (1, 2, 2)), x, y, at(eps, eps_max))
    nothing = Losses(losses.total, losses.parts)  # neither batch nor bounds to compute it from
    assert Regularisers(shi=0.5).terms(nothing, model, at(eps, eps_max)) == {}
    with pytest.raises(ConfigError, match=r"Losses\.batch"):
        Regularisers(shi=0.5).terms(nothing, model, at(0.05))


@pytest.mark.parametrize("method", [Natural(), PGDTraining(steps=1), GridPoint()])
def test_statistics_are_tracked_once_and_gradients_flow(method: Any) -> None:
    """Natural and PGD training bound nothing: the terms make a clean pass of their own."""
    runs = []
    for weight in (0.0, 0.5):
        model, (x, y) = mlp(norm=True), batch()
        progress = at(0.05, seeds=torch.arange(len(x)))
        losses = method.loss(trace(model, (1, 2, 2)), x, y, progress)
        terms = Regularisers(shi=weight).terms(losses, model, progress)
        sum(terms.values(), losses.total).backward()
        norm = model[2]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.weight.grad is not None
        assert bool(norm.weight.grad.isfinite().all())
        runs.append({name: value.clone() for name, value in norm.named_buffers()})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_two_processes_have_the_terms_and_the_gradient_of_one() -> None:
    model, (x, y) = mlp(), batch(8)
    names = ("tightness", "balance")
    progress = at(0.03)
    whole = Regularisers(shi=1.0).terms(
        GridPoint().loss(trace(model, (1, 2, 2)), x, y, progress), model, progress
    )
    wanted = {
        n: torch.autograd.grad(whole[n], model[1].weight, retain_graph=True)[0] for n in names
    }
    barrier, slots = threading.Barrier(2, timeout=60), [torch.zeros(()), torch.zeros(())]
    rows, found = (slice(0, 3), slice(3, 8)), {}
    graph = trace(model, (1, 2, 2))  # tracing is not for two threads at once

    def process(rank: int) -> None:
        def average(value: Tensor) -> Tensor:
            slots[rank] = value * (len(x[rows[rank]]) / len(x))
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        mine = at(0.03, average=average)
        losses = GridPoint().loss(graph, x[rows[rank]], y[rows[rank]], mine)
        terms = Regularisers(shi=1.0).terms(losses, model, mine)
        for name in names:
            gradient = torch.autograd.grad(terms[name], model[1].weight, retain_graph=True)[0]
            found[name, rank] = (terms[name].detach(), gradient)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(process, (0, 1)))  # raises what a thread has raised
    for name in names:
        for rank in (0, 1):
            torch.testing.assert_close(found[name, rank][0], whole[name].detach())
        averaged = 3 / 8 * found[name, 0][1] + 5 / 8 * found[name, 1][1]
        torch.testing.assert_close(averaged, wanted[name])


def test_l1_is_of_weights_or_of_everything_but_ranges() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), ParamRamp((2, 2, 2)), nn.Flatten(), nn.Linear(8, 3)
    )
    model[2].r.data.fill_(torch.inf)
    weights = model[0].weight.abs().sum() + model[4].weight.abs().sum()
    rest = sum(m.bias.abs().sum() for m in (model[0], model[1], model[4]))
    rest = rest + model[1].weight.abs().sum()
    torch.testing.assert_close(l1(model, "weights"), weights)
    torch.testing.assert_close(l1(model, "all"), weights + rest)
    (gradient,) = torch.autograd.grad(l1(model, "weights"), model[4].weight)
    assert torch.equal(gradient, model[4].weight.sign())
    shared = nn.Linear(3, 3)
    assert torch.equal(l1(nn.Sequential(shared, shared), "weights"), shared.weight.abs().sum())


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, set()),
        ({"l1": 1e-3}, {"l1"}),
        ({"shi": 0.5}, {"tightness", "balance"}),
        ({"l1": 1e-3, "l1_on": "all", "shi": 0.5}, {"l1", "tightness", "balance"}),
    ],
)
def test_flags_toggle_exactly_their_terms(fields: dict[str, Any], names: set[str]) -> None:
    chosen = Settings(
        epochs=3, eps=0.1, batch_size=24, device="cpu", threads=1,
        schedule=EpsRamp("linear", 1, 2), regularise=Regularisers(**fields),
    )  # fmt: skip
    rows = fit(tiny_net(), blobs(48), None, METHODS["ibp"].method, chosen).rows
    for row, own in zip(
        rows, ({"natural"}, {"natural", "robust"}, {"natural", "robust"}), strict=True
    ):
        full = row["epoch"] == 3  # the ramp is over, so only l1 is left
        assert set(row["loss"]) == own | {"total"} | (
            names - {"tightness", "balance"} if full else names
        )
    last = rows[-1]["loss"]
    mixed = 0.5 * last["natural"] + 0.5 * last["robust"] + last.get("l1", 0.0)
    assert last["total"] == pytest.approx(mixed, rel=1e-5)


def test_a_term_that_overflows_is_named() -> None:
    chosen = Settings(
        epochs=1, eps=0.1, batch_size=24, device="cpu", threads=1, regularise=Regularisers(l1=3e38)
    )
    with pytest.raises(DivergenceError, match=r"the l1 loss of step 1 is NaN or infinite"):
        fit(tiny_net(), blobs(48), None, Natural(), chosen)


@pytest.mark.parametrize(
    "fields",
    [
        {"l1": -1.0},
        {"shi": float("nan")},
        {"l1_on": "biases"},
        {"tolerance": 0.0},
        {"tolerance": 2.0},
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"regularise.{next(iter(fields))}"):
        Regularisers(**fields)
