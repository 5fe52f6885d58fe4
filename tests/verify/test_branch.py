"""Branch and bound against exact minima: both verdicts, every kind of split."""

from __future__ import annotations

import copy
import itertools
import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from branch_nets import (
    ACTIVATIONS,
    CLASSES,
    case,
    dense,
    margin_at,
    question,
    shifted,
    status,
    worst_margin,
)
from torch import nn

from taut.bounds import METHODS, Ascent
from taut.errors import ConfigError
from taut.models import Cells
from taut.region import Box
from taut.verify import Cascade, Status, certify
from taut.verify.branch import Branch, bounding
from taut.verify.branch.record import Record
from taut.verify.complete import Question
from tests.counts import cases

QUICK = Ascent(iterations=8)
SPLITS = {
    "neurons": Branch(QUICK, QUICK, pixels=0),
    "pixels": Branch(QUICK, QUICK, pixels=20),
    "scores alone": Branch(QUICK, QUICK, pixels=0, candidates=1, every=False),
    "refreshed": Branch(QUICK, QUICK, pixels=0, refresh="always", attack_steps=0),
    "no ascent": Branch(Ascent(0), Ascent(0), pixels=20, every=False),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("splits", SPLITS)
def test_it_agrees_with_the_exact_minimum(activation: str, splits: str) -> None:
    for seed, sign in itertools.product(range(cases(2)), (1.0, -1.0)):
        asked, exact = case(activation, seed, sign)
        (answer,) = SPLITS[splits].decide(asked)
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        assert answer.bound <= exact + 1e-6
        if answer.point is not None:
            assert exact - 1e-6 <= margin_at(asked, 0, answer.point) < 0
        else:
            assert answer.bound > 0
            assert answer.parts > 1  # it took a split


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "sigmoid"])
def test_bounds_lie_between_crown_and_the_minimum_wherever_it_stops(activation: str) -> None:
    gains = []
    for seed in range(2):
        if activation == "sigmoid":
            asked, exact = sigmoid_case(seed)
        else:
            asked, exact = case(activation, seed, 1.0)
        asked = replace(asked, threshold=torch.full((1,), exact + 1.0))  # never reached
        crown = float(METHODS["deeppoly"].margins(asked.net, asked.box, asked.y).amin())
        last = crown
        for parts in (1, 6, 24):
            (answer,) = replace(SPLITS["neurons"], parts=parts).decide(asked)
            assert status(answer) == "undecided"
            assert last - 1e-9 <= answer.bound <= exact + 1e-6
            assert answer.parts >= parts
            last = answer.bound
        gains.append(last - crown)
    assert max(gains) > 1e-3


def sigmoid_case(seed: int) -> tuple[Question, float]:
    """A network with curved activations and the least margin of a dense grid of its box."""
    net = dense("sigmoid", seed, inputs=2)
    x = torch.rand(1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    box, y = Box.around(x, 0.4), net(x).argmax(1)
    return question(net, box, y), least_on_grid(net, box, int(y))


def least_on_grid(net: nn.Module, box: Box, y: int) -> float:
    sides = [torch.linspace(float(a), float(b), 200, dtype=torch.float64)
             for a, b in zip(box.lower[0], box.upper[0], strict=True)]  # fmt: skip
    logits = net(torch.cartesian_prod(*sides))
    others = [j for j in range(CLASSES) if j != y]
    return float((logits[:, [y]] - logits[:, others]).min())


@pytest.mark.parametrize("splits", ["neurons", "pixels"])
def test_curved_activations_are_split_in_the_middle(splits: str) -> None:
    for seed, sign in itertools.product(range(2), (1.0, -1.0)):
        asked, least = sigmoid_case(seed)
        shifted(asked.module, int(asked.y), least - sign * 0.01)  # type: ignore[arg-type]
        asked = question(asked.module, asked.box, asked.y)
        (answer,) = SPLITS[splits].decide(asked)
        assert status(answer) == ("verified" if sign > 0 else "falsified")
        assert answer.bound <= sign * 0.01 + 1e-9
        if answer.point is not None:
            assert margin_at(asked, 0, answer.point) < 0


def several(count: int = 5) -> tuple[Question, list[float]]:
    """Images of one network with both answers, and their exact least margins."""
    net = dense("relu", 4)
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)
    shifted(net, int(y[0]), 1.45)
    box = Box.around(x, torch.linspace(0.05, 0.5, count, dtype=torch.float64), None)
    exact = [worst_margin(net, box[i : i + 1], int(y[i])) for i in range(count)]
    return question(net, box, y), exact


def one(asked: Question, i: int) -> Question:
    part = slice(i, i + 1)
    return replace(
        asked, box=asked.box[part], inner=asked.inner[part], y=asked.y[part],
        proved=asked.proved[part], threshold=asked.threshold[part], seconds=[math.inf], seeds=[i],
    )  # fmt: skip


def test_answers_do_not_depend_on_the_batch_and_repeat() -> None:
    asked, exact = several()
    method = SPLITS["scores alone"]
    together = method.decide(asked)
    assert {status(a) for a in together} == {"verified", "falsified"}
    for i, (answer, again) in enumerate(zip(together, method.decide(asked), strict=True)):
        (alone,) = method.decide(one(asked, i))
        (small,) = replace(method, batch_size=6).decide(one(asked, i))
        right = "verified" if exact[i] > 0 else "falsified"
        assert [status(a) for a in (answer, again, alone, small)] == [right] * 4
        assert answer.bound == again.bound
        assert answer.parts == again.parts
        assert max(a.bound for a in (answer, alone, small)) <= exact[i] + 1e-6
        if right == "verified":  # the same tree, part by part
            assert alone.parts == small.parts == answer.parts


def test_what_is_proved_already_is_not_bounded_again() -> None:
    asked, exact = case("relu", 0, 1.0)
    known = asked.proved.clone()
    known[0, [j for j in range(CLASSES) if j != int(asked.y)]] = exact
    (answer,) = SPLITS["neurons"].decide(replace(asked, proved=known))
    assert (status(answer), answer.bound, answer.parts) == ("verified", exact, 0)


def test_without_time_nothing_is_decided_and_others_go_on() -> None:
    asked, exact = several()
    (slow,) = SPLITS["neurons"].decide(replace(case("relu", 0, 1.0)[0], seconds=[1e-9]))
    assert status(slow) == "timeout"
    assert -math.inf < slow.bound <= 0
    hard = [i for i, e in enumerate(exact) if abs(e) < 2]
    seconds = [1e-9 if i in hard[:1] else math.inf for i in range(len(exact))]
    for i, answer in enumerate(SPLITS["neurons"].decide(replace(asked, seconds=seconds))):
        assert answer.bound <= exact[i] + 1e-6
        if i not in hard[:1]:
            assert status(answer) == ("verified" if exact[i] > 0 else "falsified")


def test_a_bound_that_rises_too_slowly_is_given_up() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = (24, 60, 60, CLASSES)
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        net = nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)
        corners = torch.rand(4096, 24, dtype=torch.float64).round() * 4 - 2
    others = [1, 2]
    least = float((net(corners)[:, :1] - net(corners)[:, others]).min())
    net[-1].bias.data[0] += 1 - least  # so that bounds alone fail
    x = torch.zeros(1, 24, dtype=torch.float64)
    asked = question(net, Box.around(x, 2.0, None), torch.tensor([0]), seconds=[60.0])
    branch = replace(SPLITS["neurons"], attack_steps=0, give_up=1.0)
    began = time.perf_counter()
    (answer,) = branch.decide(asked)
    assert time.perf_counter() - began < 40
    assert answer.reason == "hopeless"
    (brief,) = replace(branch, parts=16).decide(asked)
    assert brief.bound <= answer.bound < 0
    assert answer.parts > brief.parts


def test_with_all_the_time_nothing_is_given_up() -> None:
    asked, _ = several()
    patient, hasty = (
        replace(SPLITS["neurons"], give_up=most).decide(asked) for most in (math.inf, 0.0)
    )
    assert [status(a) for a in patient] == [status(a) for a in hasty]


@pytest.mark.parametrize("pace", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("give_up", [0.0, 3.0])
def test_doublings_that_lack_are_compared_with_those_there_is_time_for(
    pace: float, give_up: float
) -> None:
    """A bound of -8 that rises by ``pace`` a doubling, and 2^12 seconds at a second a part."""
    asked = case("relu", 0, 1.0)[0]
    record = Record(replace(asked, seconds=[2.0**12]), 10**9, give_up)
    threshold = float(asked.threshold[0])
    for doubling in range(12):
        new = 2**doubling - record.counts[0]
        record.count([0] * new)
        record.spend([0], float(new))
        bound = threshold - 8 + pace * doubling
        record.rise([bound])
        affordable = math.log2(2.0**12 / 2**doubling)
        hopeless = threshold - bound > pace * (affordable + give_up)
        if hopeless and doubling >= 3:
            assert record.reasons == {0: "hopeless"}
            return
        assert record.is_open(0)
    assert pace == 1.0


@pytest.mark.parametrize("most", [0, 1, 3])
def test_memory_that_runs_out_halves_the_batches(most: int, monkeypatch) -> None:
    asked, exact = case("relu", 0, 1.0)
    climb = bounding.climb

    def scarce(inter, parts, *words, **settings):
        if len(parts) > 2 * most:
            raise MemoryError
        return climb(inter, parts, *words, **settings)

    monkeypatch.setattr(bounding, "climb", scarce)
    (answer,) = SPLITS["neurons"].decide(asked)
    assert answer.bound <= exact + 1e-6
    assert status(answer) == ("verified" if most else "memory")
    assert (answer.bound > 0) == (most > 0)


def test_nan_proves_nothing() -> None:
    asked, _ = case("relu", 0, 1.0)
    asked.module[2].weight.data[0, 0] = math.nan  # type: ignore[index, union-attr]
    (answer,) = SPLITS["neurons"].decide(question(asked.module, asked.box, asked.y))
    assert (status(answer), answer.bound) == ("nan", -math.inf)


def test_a_margin_of_zero_stays_undecided() -> None:
    """Both logits are the same, so no bound exceeds zero and no point is below."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double().requires_grad_(False)
    for tensor in (net[2].weight, net[2].bias):
        tensor.data[1] = tensor.data[0]
    box = Box.around(torch.full((1, 2), 0.5, dtype=torch.float64), 0.2)
    (answer,) = replace(SPLITS["neurons"], parts=50).decide(
        question(net, box, torch.zeros(1, dtype=torch.int64))
    )
    assert status(answer) == "undecided"
    assert answer.bound <= 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": 0},
        {"parts": 0},
        {"pixels": -1},
        {"refresh": "no"},
        {"budget": 0},
        {"give_up": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Branch(**wrong)  # type: ignore[arg-type]


def cells_net(seed: int, emit: str) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            Cells(3, emit=emit), nn.Flatten(), nn.Linear(12 if emit == "ends" else 6, 6),
            nn.ReLU(), nn.Linear(6, CLASSES),
        )  # fmt: skip
    for layer in (net[2], net[4]):
        layer.weight.data.mul_(3)
    return net.double().eval().requires_grad_(False)


def least_over_cells(net: nn.Sequential, box: Box, y: int) -> float:
    """Evaluate the network in every combination of cells that the box reaches."""
    grid = net[0].steps()
    low, high = grid.cell(box.lower)[0].flatten(), grid.cell(box.upper)[0].flatten()
    each = [range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
    cells = torch.tensor(list(itertools.product(*each))).view(-1, *box.shape[1:])
    values = net[0](torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64)[cells])
    rest = net[1:](values)
    others = [j for j in range(CLASSES) if j != y]
    return float((rest[:, [y]] - rest[:, others]).min())


@pytest.mark.parametrize("most", [1, 8, 1024])
@pytest.mark.parametrize("emit", ["levels", "ends"])
def test_cells_are_decided_as_by_enumeration(most: int, emit: str) -> None:
    seen = set()
    method = Branch(QUICK, QUICK, combinations=most, every=False, candidates=2)
    for seed in range(17):
        net, g = cells_net(seed, emit), torch.Generator().manual_seed(seed)
        x = torch.rand(1, 1, 2, 3, generator=g, dtype=torch.float64)
        box, y = Box.around(x, 0.05 + 0.4 * float(torch.rand(1, generator=g))), net(x).argmax(1)
        least = least_over_cells(net, box, int(y))
        asked = question(net, box, y)
        (answer,) = method.decide(asked)
        assert status(answer) == ("verified" if least > 0 else "falsified")
        assert answer.bound <= least + 1e-9
        if answer.point is not None:
            assert margin_at(asked, 0, answer.point) < 0
        seen.add(status(answer))
    assert seen == {"verified", "falsified"}


def test_as_a_stage_of_the_cascade() -> None:
    asked, exact = several()
    center = asked.box.center
    stages = ("clean", "crown", "branch")
    for i, least in enumerate(exact):
        eps = float(asked.box.radius[i].max())
        cascade = Cascade(stages, data_range=None, timeout=60.0, branch=SPLITS["neurons"])
        x, y = center[i : i + 1], asked.y[i : i + 1]
        (verdict,) = certify(asked.module, x, y, eps, cascade=cascade).verdicts
        low = worst_margin(asked.module, Box.around(x, eps, None), int(y))  # type: ignore[arg-type]
        assert verdict.status == (Status.VERIFIED if low > 0 else Status.FALSIFIED)
        if verdict.status == Status.VERIFIED:
            assert 0 < verdict.margin <= low + 1e-6
        assert math.isfinite(least)


def test_a_margin_too_small_for_float32_is_decided_in_float64() -> None:
    """The least margin is far below what a float32 bound is trusted with, and yet proved."""
    net, eps = dense("relu", 1).float(), 0.1
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(1))
    box, y = Box.around(x.double(), eps, None), net(x).argmax(1)
    shifted(net, int(y), worst_margin(copy.deepcopy(net).double(), box, int(y)) - 1e-5)
    least = worst_margin(copy.deepcopy(net).double(), box, int(y))
    cascade = Cascade(("clean", "branch"), data_range=None, branch=SPLITS["pixels"])
    (verdict,) = certify(net, x, y, eps, cascade=cascade).verdicts
    assert 0 < least < 1e-4
    assert verdict.status == Status.VERIFIED
    assert 0 < verdict.margin <= least + 1e-9


def test_the_cascade_says_why_it_stopped_and_which_stages_there_are() -> None:
    asked, _ = case("relu", 0, 1.0)
    x, eps = asked.box.center, float(asked.box.radius.max())
    cascade = Cascade(("clean", "branch"), data_range=None, timeout=1e-3)
    (verdict,) = certify(asked.module, x, asked.y, eps, cascade=cascade).verdicts
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "timeout")
    with pytest.raises(ConfigError, match=r"'magic'; choose from clean.*branch, mip"):
        certify(asked.module, x, asked.y, eps, cascade=Cascade(("clean", "magic")))
