"""The loop: exact resumption, metrics, schedules in action, divergence, errors."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import MemorySink, blobs, same_bits, tiny_net, weights

from taut.bounds import method_named
from taut.data import Augment
from taut.errors import ConfigError, DataError, RunError, TautError
from taut.graph import Graph, trace
from taut.region import Box
from taut.training import (
    METHODS,
    CrownIBP,
    DivergenceError,
    EpsRamp,
    GridPoint,
    Losses,
    Method,
    Natural,
    PGDTraining,
    Progress,
    RateSchedule,
    Settings,
    StepInfo,
    fit,
)
from taut.training.evaluate import validate
from taut.training.streams import share


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {
        "epochs": 4,
        "eps": 0.1,
        "batch_size": 20,
        "lr": 1e-2,
        "device": "cpu",
        "threads": 1,
        "schedule": EpsRamp("linear", 1, 3),
    }
    return Settings(**(base | fields))


@dataclasses.dataclass(frozen=True)
class Remembering:
    """A method that keeps a running mean in the run's memory and lets it steer the loss."""

    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        losses = Natural().loss(graph, x, y, progress)
        mean = progress.memory.get("mean", torch.zeros(()))
        progress.memory["mean"] = 0.9 * mean + 0.1 * losses.total.detach()
        return Losses(losses.total * (1 + mean), losses.parts, losses.rates)


class Dropping(nn.Module):
    """A net that draws from PyTorch's default generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(16, 8)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.relu(self.first(x.flatten(1)))
        logits: Tensor = self.last(self.drop(hidden))
        return logits


CASES: dict[str, tuple[Method, Callable[[], nn.Module], dict[str, Any]]] = {
    "crown-ibp": (METHODS["crown-ibp"].method, tiny_net, {}),
    "ibp-norm-sgd": (METHODS["ibp"].method, lambda: tiny_net(norm=True), {"optimiser": "sgd"}),
    "pgd-augmented": (PGDTraining(steps=2), tiny_net, {"optimiser": "adamw", "grad_clip": 0.5}),
    "memory": (Remembering(), tiny_net, {}),
    "dropout": (Natural(), Dropping, {}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_resumed_training_ends_in_the_same_bits(case: str) -> None:
    method, make, fields = CASES[case]
    chosen = settings(**fields)
    augment = Augment(flip=True, pad=1) if "augmented" in case else None
    straight = fit(make(), blobs(), None, method, chosen, augment=augment)
    sink = MemorySink()
    short = dataclasses.replace(chosen, epochs=2)
    fit(make(), blobs(), None, method, short, augment=augment, sink=sink)
    buffer = io.BytesIO()
    torch.save(sink.state, buffer)
    buffer.seek(0)
    sink.state = torch.load(buffer, weights_only=True)  # nothing in it needs code to be read
    torch.manual_seed(999)  # a new process comes with another generator and other weights
    fresh = make()
    for parameter in fresh.parameters():
        nn.init.constant_(parameter, 0.5)
    resumed = fit(fresh, blobs(), None, method, chosen, augment=augment, sink=sink, resume=True)
    assert same_bits(weights(straight.model), weights(resumed.model))
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in result.rows]
        for result in (straight, resumed)
    ]
    assert timeless[0] == timeless[1]
    assert [row["epoch"] for row in sink.rows] == [1, 2, 3, 4]


def test_a_row_more_than_the_checkpoint_is_taken_back() -> None:
    sink = MemorySink()
    fit(tiny_net(), blobs(), None, Natural(), settings(epochs=2), sink=sink)
    assert sink.calls == ["metrics", "checkpoint"] * 2
    sink.rows.append(dict(sink.rows[-1], epoch=3))  # killed between the two
    fit(tiny_net(), blobs(), None, Natural(), settings(epochs=3), sink=sink, resume=True)
    assert [row["epoch"] for row in sink.rows] == [1, 2, 3]


def test_resuming_without_a_checkpoint_starts_from_the_beginning() -> None:
    sink = MemorySink()
    sink.rows.append({"epoch": 1})
    result = fit(tiny_net(), blobs(), None, Natural(), settings(epochs=1), sink=sink, resume=True)
    fresh = fit(tiny_net(), blobs(), None, Natural(), settings(epochs=1))
    assert same_bits(weights(result.model), weights(fresh.model))
    assert len(sink.rows) == 1


@pytest.mark.parametrize(
    ("changed", "method", "named"),
    [
        ({"lr": 0.5}, METHODS["ibp"].method, "lr = 0.01"),
        ({"schedule": EpsRamp("linear", 2, 3)}, METHODS["ibp"].method, "schedule.start"),
        ({}, METHODS["crown-ibp"].method, "method"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(
    changed: dict[str, Any], method: Method, named: str
) -> None:
    sink = MemorySink()
    fit(tiny_net(), blobs(), None, METHODS["ibp"].method, settings(epochs=1), sink=sink)
    with pytest.raises(RunError, match=named):
        fit(tiny_net(), blobs(), None, method, settings(**changed), sink=sink, resume=True)


def test_a_run_is_not_resumed_with_another_network() -> None:
    sink = MemorySink()
    fit(tiny_net(), blobs(), None, Natural(), settings(epochs=1), sink=sink)
    with pytest.raises(RunError, match="another network"):
        fit(tiny_net(norm=True), blobs(), None, Natural(), settings(), sink=sink, resume=True)


def test_rows_hold_what_was_trained() -> None:
    chosen = settings(
        validation_eps=0.05, rate=RateSchedule("milestones", (2,), 0.1), batch_size=40
    )
    held = blobs(50, seed=0)
    seen: list[dict[str, Any]] = []
    steps: list[StepInfo] = []
    method = GridPoint(bound=CrownIBP(beta_end=1.0))
    result = fit(
        tiny_net(), blobs(), held, method, chosen, on_epoch=seen.append, on_step=steps.append
    )
    assert seen == result.rows
    assert [row["epoch"] for row in seen] == [1, 2, 3, 4]
    assert [row["lr"] for row in seen] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])
    # 3 steps an epoch: the ramp goes from step 3 to step 9; rows tell eps of the last step
    assert [row["eps"] for row in seen] == pytest.approx([0.0, 0.1 * 2 / 6, 0.1 * 5 / 6, 0.1])
    assert set(seen[0]["loss"]) == {"natural", "total"}  # a warm-up epoch
    assert set(seen[1]["loss"]) == {"natural", "robust", "total"}
    assert [(s.epoch, s.step, s.steps) for s in steps[:4]] == [
        (1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3),
    ]  # fmt: skip
    assert not result.model.training
    last = seen[-1]["validation"]
    assert last["eps"] == 0.05
    assert set(last) == {
        "natural_accuracy", "certified_accuracy", "ibp_accuracy", "crown_ibp_accuracy", "eps",
        "attacked_accuracy", "attacked_images", "unstable_share", "dead_share_1", "dead_share_2",
    }  # fmt: skip


def test_validation_counts_every_image_once_whoever_proves_it() -> None:
    held, eps = blobs(), 0.1
    model = fit(tiny_net(), held, None, METHODS["crown-ibp"].method, settings(epochs=8)).model
    graph = trace(model, (1, 4, 4))
    model.train()
    found = validate(graph, held, eps, ("ibp", "crown-ibp"))
    assert not model.training
    x, y = held.pixels(), held.labels
    with torch.no_grad():
        network, box = graph.instance(), Box.around(x, eps)
        right = model(x).argmax(1) == y
        ibp = right & (method_named("ibp").margins(network, box, y).amin(1) > 0)
        crown = right & (method_named("crown-ibp").margins(network, box, y).amin(1) > 0)
    assert 0 < ibp.sum() < (ibp | crown).sum() < right.sum() < len(y)
    assert {name: value for name, value in found.items() if "share" not in name} == {
        "natural_accuracy": int(right.sum()) / len(y),
        "certified_accuracy": int((ibp | crown).sum()) / len(y),
        "ibp_accuracy": int(ibp.sum()) / len(y),
        "crown_ibp_accuracy": int((ibp | crown).sum()) / len(y),
        "eps": eps,
    }
    sums: list[Tensor] = []  # of three processes

    def reduce(part: Tensor) -> Tensor:
        sums.append(part if not sums else sums[-1] + part)
        return sums[-1]

    for rank in range(3):
        together = validate(graph, held, eps, ("ibp", "crown-ibp"), part=(rank, 3), reduce=reduce)
    assert together == found


def test_mean_losses_weigh_every_image_alike() -> None:
    """With lr about 0 the epoch's mean is the mean over all images, last short batch or not."""
    chosen = settings(epochs=1, lr=1e-30, batch_size=36)
    model = tiny_net()
    data = blobs(100)
    expected = nn.functional.cross_entropy(model(data.pixels()), data.labels).item()
    row = fit(model, data, None, Natural(), chosen).rows[0]
    assert row["loss"]["total"] == pytest.approx(expected, rel=1e-6)


def test_the_default_generator_and_threads_are_left_as_they_were() -> None:
    model = Dropping()
    torch.manual_seed(42)
    expected = torch.rand(3)
    torch.manual_seed(42)
    threads = torch.get_num_threads()
    fit(model, blobs(), None, Natural(), settings(epochs=1, threads=threads + 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_dropout_draws_from_the_seed_and_not_from_what_was_drawn_before() -> None:
    runs = []
    for ambient in (1, 2):
        model = Dropping()
        torch.manual_seed(ambient)
        runs.append(weights(fit(model, blobs(), None, Natural(), settings(epochs=1)).model))
    assert same_bits(*runs)


@dataclasses.dataclass(frozen=True)
class Recording:
    """Natural training that notes which images came in which order."""

    seen: list[tuple[int, Tensor]]
    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        self.seen.append((progress.epoch, x))
        return Natural().loss(graph, x, y, progress)


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    method, data = Recording([]), blobs()
    fit(tiny_net(), data, None, method, settings(epochs=2))
    orders = [torch.cat([x for epoch, x in method.seen if epoch == e]) for e in (1, 2)]
    assert not torch.equal(orders[0], orders[1])
    expected = data.pixels().flatten(1).unique(dim=0, return_counts=True)
    for order in orders:
        rows, counts = order.flatten(1).unique(dim=0, return_counts=True)
        assert torch.equal(rows, expected[0])
        assert torch.equal(counts, expected[1])


def test_seeds_change_the_order_and_nothing_else_does() -> None:
    runs = [
        weights(fit(tiny_net(), blobs(), None, Natural(), settings(epochs=1, seed=seed)).model)
        for seed in (0, 0, 1)
    ]
    assert same_bits(runs[0], runs[1])
    assert not same_bits(runs[0], runs[2])


def test_gradient_clipping_bounds_the_step() -> None:
    chosen = settings(
        epochs=1, batch_size=96, optimiser="sgd", momentum=0.0, lr=1.0, grad_clip=1e-3
    )
    model = tiny_net()
    before = weights(model)
    after = weights(fit(model, blobs(), None, Natural(), chosen).model)
    moved = math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in before))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "pgd"])
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train(name: str, precision: str) -> None:
    chosen = settings(epochs=3, precision=precision, schedule=EpsRamp("linear", 0, 3))
    result = fit(tiny_net(norm=True), blobs(), blobs(30), METHODS[name].method, chosen)
    losses = [row["loss"]["total"] for row in result.rows]
    assert all(math.isfinite(loss) for loss in losses)
    wanted = torch.float64 if precision == "64-true" else torch.float32
    assert next(result.model.parameters()).dtype == wanted
    assert result.rows[-1]["validation"]["natural_accuracy"] > 0.5


@dataclasses.dataclass(frozen=True)
class Breaking:
    """Natural training whose loss becomes NaN at one step of the run."""

    step: int
    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        losses = Natural().loss(graph, x, y, progress)
        if progress.step != self.step:
            return losses
        bad = losses.total * torch.tensor(torch.nan)
        return Losses(bad, {**losses.parts, "robust": bad.detach()})


def test_a_loss_that_is_not_finite_stops_with_epoch_step_term_and_checkpoint() -> None:
    sink = MemorySink()
    with pytest.raises(DivergenceError) as caught:
        # 5 steps an epoch: step 12 of the run is the third of epoch 3
        fit(tiny_net(), blobs(), None, Breaking(12), settings(), sink=sink)
    assert isinstance(caught.value, TautError)
    for part in ("epoch 3", "robust loss of step 3", "checkpoint is that of epoch 2"):
        assert part in str(caught.value)
    assert sink.state["epoch"] == 2
    assert all(bool(value.isfinite().all()) for value in sink.state["weights"].values())


@dataclasses.dataclass(frozen=True)
class BreakingGradient:
    """Natural training with a finite loss and a gradient that is NaN, 0 times infinity."""

    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Graph, x: Tensor, y: Tensor, progress: Progress) -> Losses:
        losses = Natural().loss(graph, x, y, progress)
        kink = sum((0 * p).square().sum().sqrt() for p in graph.module.parameters())
        return Losses(losses.total + kink, losses.parts)


def test_weights_that_are_not_finite_never_reach_a_checkpoint() -> None:
    sink = MemorySink()
    chosen = settings(epochs=1, batch_size=96)
    with pytest.raises(DivergenceError, match=r"epoch 1 .* weight '0.weight' after step 1"):
        fit(tiny_net(), blobs(), None, BreakingGradient(), chosen, sink=sink)
    assert sink.state is None


def test_data_and_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="label 3"):
        fit(tiny_net(classes=3), blobs(classes=4), None, Natural(), settings())
    chosen = settings(batch_size=95)
    with pytest.raises(ConfigError, match="batch normalisation"):
        fit(tiny_net(norm=True), blobs(), None, Natural(), chosen)
    with pytest.raises(ConfigError, match="no parameter to train"):
        fit(tiny_net().requires_grad_(False), blobs(), None, Natural(), settings())
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no GPU"):
            fit(tiny_net(), blobs(), None, Natural(), settings(device="cuda"))


@pytest.mark.parametrize(("batch", "world"), [(20, 2), (7, 3), (2, 4), (1, 2)])
def test_shares_cover_a_batch_once_and_average_to_its_mean(batch: int, world: int) -> None:
    values = torch.rand(batch, dtype=torch.float64)
    parts = [share(batch, rank, world) for rank in range(world)]
    average = sum(weight * values[rows].mean() for rows, weight in parts) / world
    torch.testing.assert_close(average, values.mean())
    covered = torch.cat([torch.arange(batch)[rows] for rows, weight in parts if weight])
    assert covered.tolist() == list(range(batch))
