"""AdvIBP's two-objective step against a plain reimplementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from combination_helpers import (
    affine_layers,
    assert_same_loss,
    at,
    attacked_points,
    batch,
    cross_entropies,
    ends,
    ibp_losses,
    in_shares,
    mlp,
    traced,
)
from torch import Tensor, nn
from training_helpers import MemorySink, blobs, same_bits, tiny_net, weights

from taut.errors import ConfigError
from taut.training import (
    Bisector,
    EpsRamp,
    GridPoint,
    Losses,
    Progress,
    Settings,
    TrainingAttack,
    choose,
    fit,
)
from taut.training.scaling import scaled

FGSM = TrainingAttack(steps=1, step=1.25)


class Reference:
    """The algorithm of one step in plain PyTorch; keeps what the moments of a paper's step need."""

    def __init__(self, decay: tuple[float, float], **switches: Any) -> None:
        self.decay, self.switches = decay, switches
        self.history: list[tuple[Tensor, Tensor]] = []
        self.cases: list[int] = []

    def mean(self, which: int, decay: float, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Bias-corrected running mean of the gradients before the latest; the first for itself."""
        seen = [pair[which] for pair in [self.history[0], *self.history[:-1]]]
        total = torch.zeros_like(of(seen[0]))
        for gradient in seen:
            total = decay * total + (1 - decay) * of(gradient)
        return total / (1 - decay ** len(seen))

    def step(
        self, model: nn.Sequential, x: Tensor, y: Tensor, progress: Progress, strong: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the value of the loss and the update's gradient."""
        assert progress.seeds is not None
        parameters = list(model.parameters())
        point = attacked_points(model, x, y, progress.eps, FGSM, progress.seeds)
        adversarial = cross_entropies(model(point), y).mean()
        low, high = ends(x, progress.eps)
        robust = ibp_losses(affine_layers(model, x), low, high, y).mean()
        g_a = torch.autograd.grad(adversarial, parameters, retain_graph=True)
        g_b = torch.autograd.grad(robust, parameters, retain_graph=True)
        count = 1 if self.switches.get("moments") == "first-layer" else len(parameters)
        flat = [torch.cat([g.flatten() for g in part[:count]]) for part in (g_a, g_b)]
        self.history.append((flat[0], flat[1]))
        m_a, m_b = (self.mean(i, self.decay[0], lambda g: g) for i in (0, 1))
        v_a, v_b = (self.mean(i, self.decay[1], torch.norm) for i in (0, 1))
        product = m_a @ m_b
        exact = self.switches.get("exact_projection", False)
        square = torch.tensor(0.0)
        if product > 0:
            self.cases.append(1)
            d = m_a / v_a + m_b / v_b
            gamma = 0.5 * ((m_a + m_b) @ d) / (d @ d)
            kappa_a, kappa_b = gamma / v_a, gamma / v_b
        elif strong:
            self.cases.append(2)
            kappa_a = torch.tensor(1.0)
            kappa_b = -product / (m_b @ m_b if exact else v_b**2)
            square = torch.tensor(0.5 if self.switches.get("reg_in_both") else 0.0)
        else:
            self.cases.append(3)
            kappa_a = -product / (m_a @ m_a if exact else v_a**2)
            kappa_b, square = torch.tensor(1.0), torch.tensor(0.5)
        loss = kappa_a * adversarial + kappa_b * robust + square * robust**2
        return loss.detach(), list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("threshold", [0.0, 1e9])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"exact_projection": True},
        {"moments": "first-layer"},
        {"reg_in_both": True},
        {"mean_decay": 0.0, "norm_decay": 0.0},
    ],
)
def test_updates_equal_a_plain_reimplementation(threshold: float, switches: dict[str, Any]) -> None:
    ours, theirs = mlp(), mlp()
    for parameter in [*ours.parameters(), *theirs.parameters()]:
        parameter.data *= 2.0  # weights with which the two objectives come to disagree
    graph = traced(ours)
    method = choose("adv-ibp", {"threshold": threshold, "threshold_start": 1000.0, **switches})
    decay = (switches.get("mean_decay", 0.9), switches.get("norm_decay", 0.99))
    reference = Reference(decay, **switches)
    memory: dict[str, Tensor] = {}
    for step in range(12):
        x, y = batch(seed=20 + step)
        progress = at(0.02 + 0.03 * step, 0.4, step=step, memory=memory)
        losses = method.loss(graph, x, y, progress)
        gradients = torch.autograd.grad(losses.total, list(ours.parameters()))
        value, wanted = reference.step(theirs, x, y, progress, strong=threshold > 0)
        torch.testing.assert_close(losses.total.detach(), value, rtol=1e-9, atol=1e-9)
        for model, update in ((ours, gradients), (theirs, wanted)):
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), update, strict=True):
                    parameter -= 0.02 * gradient
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    assert 1 in reference.cases
    assert (2 if threshold else 3) in reference.cases


def test_square_of_the_robust_loss_adds_its_gradient_times_the_loss() -> None:
    model, (x, y) = mlp(), batch()
    graph = traced(model)
    method = GridPoint(combination=Bisector(threshold=0.0))
    # a history in which the two were opposed: p < 0, so that the robust loss comes first
    ones = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    memory = {
        "bisector/mean_adversarial": ones,
        "bisector/mean_robust": -ones,
        "bisector/norm_adversarial": ones.norm(),
        "bisector/norm_robust": ones.norm(),
        "bisector/count": torch.tensor(4),
    }
    losses = method.loss(graph, x, y, at(memory=dict(memory)))
    a, b = losses.parts["adversarial"], losses.parts["robust"]
    seeds = at().seeds
    assert seeds is not None
    point = attacked_points(model, x, y, 0.1, FGSM, seeds)
    adversarial = cross_entropies(model(point), y).mean()
    robust = ibp_losses(affine_layers(model, x), *ends(x, 0.1), y).mean()
    torch.testing.assert_close(torch.stack([a, b]), torch.stack([adversarial, robust]).detach())
    correct = (1 - 0.99**4) ** 2 / (1 - 0.9**4) ** 2
    assert_same_loss(losses.total, correct * adversarial + robust + robust**2 / 2, model)


@pytest.mark.parametrize("kind", ["clipped", "unclipped", "batch-mean"])
def test_the_attack_counts_as_strong_up_to_the_threshold(kind: Any) -> None:
    model, (x, y) = mlp(), batch()
    seeds = at().seeds
    assert seeds is not None
    point = attacked_points(model, x, y, 0.1, FGSM, seeds).requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropies(model(point), y).sum(), point)
    found = point.detach()
    if kind == "clipped":
        low, high = ends(x, 0.1)
        each = torch.maximum((high - found) * slope, (low - found) * slope).flatten(1).sum(1)
    else:
        each = 0.1 * slope.abs().flatten(1).sum(1) - ((found - x) * slope).flatten(1).sum(1)
    level = float(each.mean()) / (len(x) if kind == "batch-mean" else 1)
    assert level > 0
    a, b = torch.tensor([3.0, 0.0]).double(), torch.tensor([-0.3, 0.4]).double()
    size = sum(p.numel() for p in model.parameters())
    memory = {
        "bisector/mean_adversarial": torch.cat([a, torch.zeros(size - len(a)).double()]),
        "bisector/mean_robust": torch.cat([b, torch.zeros(size - len(b)).double()]),
        "bisector/norm_adversarial": a.norm(),
        "bisector/norm_robust": b.norm(),
        "bisector/count": torch.tensor(10**6),
    }
    for factor, strong in ((1.001, True), (0.999, False)):
        rule = Bisector(threshold=factor * level, fosc=kind, threshold_start=1000.0)
        losses = GridPoint(combination=rule).loss(traced(model), x, y, at(memory=dict(memory)))
        first, second = losses.parts["adversarial"], losses.parts["robust"]
        wanted = first - a @ b / (b @ b) * second
        if not strong:
            wanted = -a @ b / (a @ a) * first + second + second**2 / 2
        torch.testing.assert_close(losses.total.detach(), wanted)


def test_two_processes_take_the_step_of_one() -> None:
    x, y = batch()
    seeds = at().seeds
    assert seeds is not None
    shares = [slice(0, 3), slice(3, 7)]
    model = mlp()
    for threshold in (0.0, 1e9):
        memories: list[dict[str, Tensor]] = [{}, {}, {}]
        rule = Bisector(threshold=threshold, threshold_start=1000.0, mean_decay=0.5)
        method = GridPoint(combination=rule)

        def work(rows: slice, average: Callable[[Tensor], Tensor]) -> Losses:
            memory = memories[1 + shares.index(rows)]
            progress = at(eps, 0.4, memory=memory, average=average, count=7)
            return method.loss(graph, x[rows], y[rows], replace(progress, seeds=seeds[rows]))

        for eps in (0.05, 0.4, 0.3):
            graph = traced(model)
            alone = method.loss(graph, x, y, at(eps, 0.4, memory=memories[0]))
            parts = in_shares(work, shares, 7)
            assert_same_loss(parts[0].total * 3 / 7 + parts[1].total * 4 / 7, alone.total, model)
        for name, value in memories[0].items():
            torch.testing.assert_close(memories[1][name], value)
            torch.testing.assert_close(memories[2][name], value)


def test_phases_are_natural_then_adversarial_then_joint() -> None:
    model, (x, y) = mlp(), batch()
    rule = Bisector(attack_ramp=EpsRamp("linear", start=1, length=3), attack=FGSM)
    method = GridPoint(combination=rule)
    graph = traced(model)
    # ten steps an epoch: the ramp of the attack goes from step 10 to step 30
    found = {}
    for step, natural_only in ((9, True), (10, True), (15, True), (35, True), (45, False)):
        progress = at(0.0 if natural_only else 0.1, 0.2, step, natural_only, steps=10)
        found[step] = method.loss(graph, x, y, progress)
        assert bool(progress.memory) == (step == 45)
    assert set(found[9].parts) == set(found[10].parts) == {"natural"}
    assert set(found[15].parts) == set(found[35].parts) == {"adversarial"}
    assert set(found[45].parts) == {"adversarial", "robust"}
    seeds = at().seeds
    assert seeds is not None
    for step, eps in ((15, 0.05), (35, 0.2)):
        point = attacked_points(model, x, y, eps, FGSM, seeds)
        assert_same_loss(found[step].total, cross_entropies(model(point), y).mean(), model)


def test_published_code_trains_on_the_bound_alone_while_eps_grows() -> None:
    model, (x, y) = mlp(), batch()
    method = GridPoint(combination=Bisector(ramp_loss="ibp-only"))
    growing = at(0.1, 0.2)
    losses = method.loss(traced(model), x, y, growing)
    wanted = ibp_losses(affine_layers(model, x), *ends(x, 0.1), y).mean()
    assert_same_loss(losses.total, wanted, model)
    assert growing.memory == {}
    full = at(0.2, 0.2)
    assert set(method.loss(traced(model), x, y, full).parts) == {"adversarial", "robust"}
    assert int(full.memory["bisector/count"]) == 2


def test_moments_survive_a_resumed_run() -> None:
    method = choose(
        "adv-ibp",
        {"attack_ramp": {"kind": "linear", "start": 0, "length": 2}, "threshold": 1e9},
    )

    def run(epochs: int, sink: MemorySink, resume: bool = False) -> Any:
        chosen = Settings(
            epochs=epochs, eps=0.2, batch_size=20, lr=1e-2, device="cpu", threads=1,
            schedule=EpsRamp("linear", 2, 2),
        )  # fmt: skip
        return fit(tiny_net(), blobs(), None, method, chosen, sink=sink, resume=resume)

    straight, halved = MemorySink(), MemorySink()
    whole = run(5, straight)
    run(4, halved)
    assert int(halved.state["memory"]["bisector/count"]) > 5
    resumed = run(5, halved, resume=True)
    assert same_bits(weights(whole.model), weights(resumed.model))
    assert same_bits(straight.state["memory"], halved.state["memory"])


def test_running_statistics_see_one_clean_pass_a_step() -> None:
    model, (x, y) = mlp(norm=True), batch()
    choose("adv-ibp", {}).loss(traced(model), x, y, at()).total.backward()
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1  # one clean pass; neither attack nor bounds count


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bisector(threshold=-1.0),
        lambda: Bisector(threshold_length=float("nan")),
        lambda: Bisector(mean_decay=1.0),
        lambda: Bisector(fosc="none"),  # type: ignore[arg-type]
        lambda: Bisector(moments="last"),  # type: ignore[arg-type]
        lambda: Bisector(ramp_loss="both"),  # type: ignore[arg-type]
    ],
)
def test_fields_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="method"):
        make()


def test_what_counts_epochs_shrinks_with_a_shorter_recipe() -> None:
    method = GridPoint(combination=Bisector())
    rule = scaled(method, 0.1).combination
    assert isinstance(rule, Bisector)
    assert rule.attack_ramp == EpsRamp("smoothed", start=1, length=5)
    assert (rule.threshold_start, rule.threshold_length) == pytest.approx((10.9, 4.9))
    assert rule.threshold == Bisector().threshold
