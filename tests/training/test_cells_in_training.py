"""Models with cells under everything that training does: cells are input, not neurons."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import MemorySink, blobs, same_bits, tiny_net, weights

from taut.bounds import interval
from taut.graph import Network, trace
from taut.models import Cells
from taut.region import Box
from taut.training import (
    BOUNDS,
    IBP,
    METHODS,
    TAPS,
    Bisector,
    EpsRamp,
    GridPoint,
    Penalty,
    Progress,
    Regularisers,
    Settings,
    StepInfo,
    TrainingAttack,
    fit,
)
from taut.training.bound.split import cut_node, tail
from taut.training.evaluate import validate
from taut.training.initialise import shi
from taut.training.region.cell_choices import staircase
from taut.training.regularise import balance, l1, tightness
from taut.training.regularise.layers import activation_inputs, entry

EPS = 0.15
EMITS: tuple[Any, ...] = ("levels", "ends")


def celled(emit: Any = "levels", n: int = 4, seed: int = 1, **more: Any) -> nn.Sequential:
    """The net of these tests behind cells."""
    net = tiny_net(seed)
    if emit == "ends":
        torch.manual_seed(seed)
        net[0] = nn.Conv2d(2, 3, 3, padding=1)
    return nn.Sequential(Cells(n, emit=emit, **more), *net)


def images(count: int = 6, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 3


def at(eps: float = EPS, count: int = 6) -> Progress:
    return Progress(3, 2, eps, EPS, seeds=torch.arange(count) + 5, memory={})


def halves(network: Network, box: Box) -> tuple[Network, Box]:
    """What follows the cells, and the box of the values they can have."""
    node, steps = staircase(network)
    return tail(network, node), Box(steps.forward(box.lower), steps.forward(box.upper))


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("name", [*BOUNDS, "shrunk", "fused"])
def test_a_bound_over_pixels_is_that_over_the_values_of_their_cells(name: str, emit: Any) -> None:
    kinds: dict[str, Any] = {
        "shrunk": IBP(relu_shrinkage=0.5),
        "fused": METHODS["crown-ibp-fused"].method.bound,  # type: ignore[attr-defined]
        "taps": TAPS(split=-1, ramp_by_ibp=False),
    }
    bound = kinds.get(name) or BOUNDS[name]()
    model = celled(emit).double()
    x, y = images()
    network = trace(model, (1, 4, 4)).instance()
    box = Box.around(x, EPS)
    found = bound.bounded(network, box, y, at())
    behind, values = halves(network, box)
    wanted = bound.bounded(behind, values, y, at())
    torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.margins, wanted.margins, rtol=1e-9, atol=1e-9)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(found.losses.sum(), parameters, retain_graph=True),
        torch.autograd.grad(wanted.losses.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_on_cells(name: str, emit: Any) -> None:
    model = celled(emit)
    before = weights(model)
    settings = Settings(
        epochs=1, eps=0.1, batch_size=10, device="cpu", threads=1, schedule=EpsRamp("constant")
    )
    rows = fit(model, blobs(10), None, METHODS[name].method, settings).rows
    assert all(math.isfinite(value) for value in rows[0]["loss"].values())
    after = weights(model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"1.weight", "4.weight", "6.weight"} <= changed
    assert not any(key.startswith("0.") for key in changed)  # the grid stays


def test_straddling_pixels_are_no_unstable_neurons() -> None:
    model, held = celled(n=3), blobs(40)
    found = validate(trace(model, (1, 4, 4)), held, 0.05, ("ibp",))
    x = held.images.float() / 255
    box = Box.around(x, 0.05)
    low, high = model[0](box.lower), model[0](box.upper)
    assert float((low != high).double().mean()) > 0.1  # the case is telling
    unstable, count, middle, radius = 0.0, 0, (low + high) / 2, (high - low) / 2
    for layer in list(model)[1:]:
        if isinstance(layer, nn.ReLU):
            unstable += int(((middle - radius < 0) & (middle + radius > 0)).sum())
            count += middle.numel()
            ends = (middle - radius).relu(), (middle + radius).relu()
            middle, radius = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        elif isinstance(layer, nn.Flatten):
            middle, radius = middle.flatten(1), radius.flatten(1)
        elif isinstance(layer, nn.Linear):
            middle, radius = layer(middle), radius @ layer.weight.abs().T
        else:
            middle = layer(middle)
            radius = nn.functional.conv2d(radius, layer.weight.abs(), padding=1)
    assert found["unstable_share"] == pytest.approx(unstable / count, abs=1e-6)
    assert {key for key in found if key.startswith("dead")} == {"dead_share_1", "dead_share_2"}


@pytest.mark.parametrize("emit", EMITS)
def test_a_split_counts_the_activations_behind_the_cells(emit: Any) -> None:
    network = trace(celled(emit), (1, 4, 4)).instance()
    relus = [node.index for node in network.nodes if node.name.startswith(("_2", "2", "_5", "5"))]
    plain = [n.index for n in network.nodes if type(n.operator).__name__ == "ReLU"]
    assert len(plain) == 2
    assert set(plain) <= set(relus)
    assert cut_node(network, -1) == plain[0]
    assert cut_node(network, 2) == plain[1]
    assert cut_node(network, 1) == plain[0]
    assert cut_node(network, 0) == 0


def test_taps_with_all_activations_behind_the_cut_attacks_real_images() -> None:
    model = celled().double()
    x, y = images()
    x[:, :, 0] = 0.4 - EPS  # the upper end of these pixels is rounded near an edge
    network = trace(model, (1, 4, 4)).instance()
    box = Box.around(x, EPS)
    bound = TAPS(split=0, ramp_by_ibp=False, multiply=False)
    found = bound.bounded(network, box, y, at())
    sound = IBP().bounded(network, box, y, at())
    assert bool((found.margins >= sound.margins - 1e-9).all())
    clean = model(x)
    margins = clean.gather(1, y[:, None]) - clean
    assert bool((found.margins.isinf() | (found.margins <= margins + 1e-9)).all())


@pytest.mark.parametrize("emit", EMITS)
def test_regularisers_begin_behind_the_cells(emit: Any) -> None:
    model = celled(emit).double()
    with torch.no_grad():
        model[1].weight.mul_(3)  # so that intervals grow
    network, box = trace(model, (1, 4, 4)).instance(), Box.around(images()[0], EPS)
    known = interval.propagate(network, box)
    behind, values = halves(network, box)
    plain = interval.propagate(behind, values)
    assert len(activation_inputs(known)) == 2
    torch.testing.assert_close(entry(known).radius, values.radius)
    for term in (tightness, balance):
        one, other = term(known, 1.0), term(plain, 1.0)
        assert float(one.detach()) > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_tightness_of_images_no_pixel_of_which_straddles_is_zero() -> None:
    model = celled(learn=True).double()
    x = torch.full((3, 1, 4, 4), 0.4, dtype=torch.float64)
    known = interval.propagate(trace(model, (1, 4, 4)).instance(), Box.around(x, 1e-6))
    term = tightness(known, 0.5)
    assert float(term.detach()) == 0.0
    gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
    assert all(g is None or float(g.abs().max()) == 0.0 for g in gradients)


def test_initial_weights_over_both_ends_keep_the_radius() -> None:
    ratios = {}
    for emit in EMITS:
        torch.manual_seed(0)
        cells = Cells(4, emit=emit)
        first = nn.Linear(cells.channels(400), 600)
        model = nn.Sequential(cells, first, nn.ReLU(), nn.Linear(600, 3))
        shi(model, trace(model, (400,)), 0)
        x = torch.rand(4, 400, generator=torch.Generator().manual_seed(1))
        known = interval.propagate(trace(model, (400,)).instance(), Box.around(x, 0.1))
        radii = known.interval(2 if emit == "levels" else 3).radius.detach()
        ratios[emit] = float(radii.mean() / entry(known).radius.mean())
        assert ratios[emit] == pytest.approx(2.0, rel=0.03)  # ReLU halves it


def learned(**more: Any) -> nn.Sequential:
    return celled(learn=True, **more)


def test_decay_and_norms_leave_thresholds_alone() -> None:
    model = learned()
    (by,) = torch.autograd.grad(l1(model, "all"), [model[0].thresholds], allow_unused=True)
    assert by is None
    # weights of zero pass no gradient on: thresholds could move by decay alone
    model = nn.Sequential(Cells(4, learn=True), nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(model[2].weight)
    before = model[0].thresholds.detach().clone()
    settings = Settings(
        epochs=1, eps=0.0, batch_size=48, lr=1.0, optimiser="sgd", momentum=0.0, weight_decay=0.1,
        device="cpu", threads=1,
    )  # fmt: skip
    fit(model, blobs(48), None, METHODS["natural"].method, settings)
    assert torch.equal(model[0].thresholds, before)
    assert bool(model[2].weight.any())


def test_the_first_layer_of_a_bisector_is_no_threshold() -> None:
    model, (x, y) = learned().double(), images()
    method = GridPoint(combination=Bisector(attack=TrainingAttack(steps=1), moments="first-layer"))
    progress = at()
    method.loss(trace(model, (1, 4, 4)), x, y, progress)
    assert progress.memory["bisector/mean_robust"].shape == (model[1].weight.numel(),)


@pytest.mark.parametrize("emit", EMITS)
def test_a_penalty_counts_no_cells(emit: Any) -> None:
    (x, y), model = images(), celled(emit).double()
    method = GridPoint(combination=Penalty(weight=1.0, attack=TrainingAttack(steps=1)))
    graph = trace(model, (1, 4, 4))
    found = method.loss(graph, x, y, at()).parts["penalty"]
    known = interval.propagate(*halves(graph.instance(), Box.around(x, EPS)))
    wanted = torch.zeros((), dtype=torch.float64)
    for layer in activation_inputs(known):
        ends = layer.bounds.lower * layer.bounds.upper
        wanted = wanted - torch.tanh(1 + ends).flatten(1).sum(1).mean().detach()
    torch.testing.assert_close(found, wanted)
    assert float(wanted) != 0.0


def toy(edge: float = 0.3) -> Any:
    """Images of one grey level, in two classes above and below an edge."""
    from taut.data import ImageSet

    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(400, 1, 1, 1, generator=generator).expand(-1, 1, 2, 2)
    labels = (grey[:, 0, 0, 0] > edge).long()
    return ImageSet.from_tensors(grey.mul(255).to(torch.uint8), labels, 2, name="toy")


def one_threshold(start: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Cells(thresholds=[start], learn=True), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["natural", "ibp"])
def test_a_threshold_moves_to_where_the_classes_part(name: str) -> None:
    data, model = toy(), one_threshold()
    eps = 0.0 if name == "natural" else 0.02
    settings = Settings(
        epochs=30, eps=eps, batch_size=50, lr=0.02, device="cpu", threads=1,
        schedule=EpsRamp("constant"),
    )  # fmt: skip
    rows = fit(model, data, None, METHODS[name].method, settings).rows
    assert float(model[0].thresholds.detach()) == pytest.approx(0.3, abs=0.05)
    still = nn.Sequential(Cells(thresholds=[0.5]), *one_threshold()[1:])
    fixed = fit(still, data, None, METHODS[name].method, settings).rows
    assert rows[-1]["loss"]["total"] < 0.6 * fixed[-1]["loss"]["total"]


def test_thresholds_that_steps_have_carried_past_each_other_count_in_order() -> None:
    model = learned(n=4)
    with torch.no_grad():
        model[0].thresholds.copy_(torch.tensor([0.6, 0.2, 0.4]))
    x = torch.rand(20, 1, 4, 4)
    wanted = model[0].values[(x[..., None] >= torch.tensor([0.2, 0.4, 0.6])).sum(-1)]
    assert torch.equal(model[0](x), wanted)
    settings = Settings(
        epochs=1, eps=0.05, batch_size=30, lr=0.01, device="cpu", threads=1,
        schedule=EpsRamp("constant"),
    )  # fmt: skip
    fit(model, blobs(30), None, METHODS["cells-sabr"].method, settings)
    edges = model[0].thresholds.detach()
    assert edges.tolist() != pytest.approx([0.6, 0.2, 0.4], abs=1e-4)
    assert bool((model[0].steps().thresholds.diff() >= 0).all())
    box = Box.around(x, 0.05)
    bounds = interval.propagate(trace(model, (1, 4, 4)).instance(), box).interval(1).bounds
    low, high = ((end[..., None] >= edges).sum(-1) / 3 for end in (box.lower, box.upper))
    torch.testing.assert_close((bounds.lower, bounds.upper), (low, high))


def test_learned_thresholds_stay_in_order_and_a_resumed_run_ends_in_the_same_bits() -> None:
    class KilledError(Exception):
        pass

    def die(info: StepInfo) -> None:
        if (info.epoch, info.step) == (3, 2):
            raise KilledError

    settings = Settings(
        epochs=4, eps=0.05, batch_size=20, lr=0.2, device="cpu", threads=1,
        schedule=EpsRamp("linear", 1, 2),
    )  # fmt: skip
    method = METHODS["cells-sabr"].method
    straight = learned(n=6)
    fit(straight, blobs(60), None, method, settings, sink=MemorySink())
    start = learned(n=6)[0].thresholds.detach()
    edges = straight[0].thresholds.detach()
    assert not torch.equal(start, edges)
    steps = straight[0].steps()
    assert bool((steps.thresholds.diff() >= 0).all())
    sink = MemorySink()
    with pytest.raises(KilledError):
        fit(learned(n=6), blobs(60), None, method, settings, sink=sink, on_step=die)
    resumed = fit(learned(n=6), blobs(60), None, method, settings, sink=sink, resume=True).model
    assert same_bits(weights(straight), weights(resumed))


def test_regularised_training_on_cells_begins_at_eps_0() -> None:
    settings = Settings(
        epochs=2, eps=0.1, batch_size=20, device="cpu", threads=1, init="shi",
        schedule=EpsRamp("linear", 1, 1), regularise=Regularisers(l1=1e-4, l1_on="all", shi=0.5),
    )  # fmt: skip
    model = learned()
    rows = fit(model, blobs(40), None, METHODS["ibp"].method, settings).rows
    assert all(math.isfinite(value) for row in rows for value in row["loss"].values())
    assert all(bool(torch.isfinite(value).all()) for value in weights(model).values())
