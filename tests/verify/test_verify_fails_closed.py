"""Whatever goes wrong inside, nothing is called verified (or falsified) that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from verify_nets import CLASSES, images, labels, make, predictions

from taut.attacks import PGD, Attacked
from taut.attacks.loop import Attack
from taut.bounds import METHODS, Bounds
from taut.errors import UnsupportedOperator
from taut.graph import Network
from taut.region import Box
from taut.verify import Cascade, Status, certify

EPS = 0.02
BOUNDS_ONLY = Cascade(stages=("clean", "ibp", "crown-ibp"))


class Method:
    """A bound method whose margins a test makes up from IBP's."""

    def __init__(self, change: Callable[[Tensor, Box, Tensor], Tensor]) -> None:
        self.change = change

    @property
    def info(self) -> object:
        return METHODS["ibp"].info

    def outputs(self, net: Network, box: Box) -> Bounds:
        raise NotImplementedError

    def margins(self, net: Network, box: Box, y: Tensor) -> Tensor:
        return self.change(METHODS["ibp"].margins(net, box, y), box, y)


def case(seed: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    net, x = make("dense", seed), images(10, seed)
    return net, x, predictions(net, x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bound_that_is_not_finite_proves_nothing(bad):
    net, x, y = case()

    def spoil(margins: Tensor, box: Box, y: Tensor) -> Tensor:
        margins = margins.clone()
        margins[0, (int(y[0]) + 1) % CLASSES] = bad
        return margins

    honest = certify(net, x, y, 0.002, cascade=BOUNDS_ONLY)
    assert honest.verdicts[0].status == Status.VERIFIED
    found = certify(
        net,
        x,
        y,
        0.002,
        cascade=BOUNDS_ONLY,
        methods={"ibp": Method(spoil), "crown-ibp": METHODS["crown-ibp"]},
    )
    first = found.verdicts[0]
    assert (first.status, first.stage, first.reason) == (Status.UNKNOWN, "ibp", "nan")
    assert first.margin == -torch.inf
    assert [v.status for v in found.verdicts[1:]] == [v.status for v in honest.verdicts[1:]]


def test_all_of_a_bound_may_be_infinite_and_still_prove_nothing():
    net, x, y = case()
    method = Method(lambda margins, box, y: torch.full_like(margins, torch.inf))
    found = certify(
        net, x, y, EPS, cascade=BOUNDS_ONLY, methods={"ibp": method, "crown-ibp": method}
    )
    assert {(v.status, v.reason) for v in found.verdicts} == {(Status.UNKNOWN, "nan")}


def test_a_lower_bound_above_the_clean_margin_is_a_contradiction():
    net, x, y = case()
    method = Method(lambda margins, box, y: margins + 100)
    found = certify(
        net,
        x,
        y,
        EPS,
        cascade=BOUNDS_ONLY,
        methods={"ibp": method, "crown-ibp": METHODS["crown-ibp"]},
    )
    assert {(v.status, v.reason) for v in found.verdicts} == {(Status.UNKNOWN, "contradiction")}
    assert found.certified_accuracy == 0


def test_what_earlier_stages_proved_is_reported_when_a_later_one_fails():
    net, x, y = case()
    weak = Method(lambda margins, box, y: (margins - 50).scatter(1, y[:, None], torch.inf))
    broken = Method(lambda margins, box, y: margins * torch.nan)
    found = certify(net, x, y, EPS, cascade=BOUNDS_ONLY, methods={"ibp": weak, "crown-ibp": broken})
    for verdict in found.verdicts:
        assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "nan")
        assert -60 < verdict.margin < -40


def test_the_best_bound_of_each_margin_counts():
    """Each stage proves half of the margins; together they prove the image."""
    net, x, y = case()

    def half(parity: int) -> Method:
        def keep(margins: Tensor, box: Box, y: Tensor) -> Tensor:
            away = (y[:, None] + torch.arange(1, CLASSES)) % CLASSES
            rows = torch.arange(len(y))[:, None]
            margins = margins.clone()
            margins[rows, away[:, parity::2]] -= 100
            return margins

        return Method(keep)

    plain = certify(net, x, y, 0.002, cascade=Cascade(stages=("clean", "ibp")))
    assert plain.certified_accuracy > 0.5
    found = certify(
        net, x, y, 0.002, cascade=BOUNDS_ONLY, methods={"ibp": half(0), "crown-ibp": half(1)}
    )
    assert found.by_stage()["ibp"]["verified"] == 0
    assert found.certified_accuracy == plain.certified_accuracy
    for a, b in zip(plain.verdicts, found.verdicts, strict=True):
        if a.status == Status.VERIFIED:
            assert b.margin == pytest.approx(a.margin, abs=1e-6)


def test_a_borderline_float32_bound_is_computed_again_in_float64():
    net, x, y = case()
    seen: list[tuple[torch.dtype, int]] = []

    def rounding(double_value: float) -> Method:
        def change(margins: Tensor, box: Box, y: Tensor) -> Tensor:
            seen.append((box.lower.dtype, len(y)))
            value = 4e-6 if margins.dtype == torch.float32 else double_value
            return torch.full_like(margins, value).scatter(1, y[:, None], torch.inf)

        return Method(change)

    cascade = Cascade(stages=("clean", "ibp"))
    for value, status in ((-1e-9, Status.UNKNOWN), (3e-6, Status.VERIFIED)):
        seen.clear()
        found = certify(net, x, y, 0.0, cascade=cascade, methods={"ibp": rounding(value)})
        assert {v.status for v in found.verdicts} == {status}
        assert [v.margin for v in found.verdicts] == pytest.approx([value] * 10, rel=1e-12)
        assert seen == [(torch.float32, 10), (torch.float64, 10)]
    # In float64 from the start, and far from zero, there is nothing to repeat.
    seen.clear()
    certify(net.double(), x, y, 0.0, cascade=cascade, methods={"ibp": rounding(1e-9)})
    certify(
        net.float(),
        x,
        y,
        1e-4,
        cascade=cascade,
        methods={
            "ibp": Method(lambda margins, box, y: seen.append((margins.dtype, len(y))) or margins)
        },
    )
    assert seen == [(torch.float64, 10), (torch.float32, 10)]


def test_weights_of_nan_are_never_verified_and_never_falsified():
    for spoiled in (0, -1):
        net, x, y = case()
        list(net.parameters())[spoiled].data.fill_(torch.nan)
        found = certify(net, x, y, EPS)
        for verdict in found.verdicts:
            assert (verdict.status, verdict.stage) == (Status.UNKNOWN, "clean")
            assert (verdict.reason, verdict.predicted) == ("nan", -1)
            assert verdict.margin == -torch.inf
        assert found.natural_accuracy == found.certified_accuracy == 0


def test_a_hidden_infinity_is_not_verified():
    """Weights that overflow only off the image: clean logits are finite, the bounds are not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight.fill_(3e38)
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]))
        net[3].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    found = certify(net, x, y, 0.9, cascade=Cascade(stages=("clean", "ibp", "crown-ibp", "crown")))
    assert found.natural_accuracy == 1
    assert {(v.status, v.reason) for v in found.verdicts} == {(Status.UNKNOWN, "nan")}


class Fake(Attack):
    """An attack that reports a success where there is none."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        object.__setattr__(self, "offset", offset)

    def sizes(self) -> tuple[float, ...]:
        return ()

    def __call__(self, model, x, y, box, seeds=None, generator=None) -> Attacked:
        point = x + self.offset
        return Attacked(point, torch.ones_like(y, dtype=torch.bool), -torch.ones(len(x)))


@pytest.mark.parametrize("offset", [0.0, 1e-3, 5.0, float("nan")])
@pytest.mark.parametrize("after", ["ibp", "branch"])
def test_a_counterexample_that_does_not_replay_is_unknown_also_beside_a_proof(offset, after):
    net, x, y = case()
    stages = ("clean", "attack", after)
    found = certify(net, x, y, 1e-3, cascade=Cascade(stages, attack=Fake(offset)))
    assert all(v.status is Status.VERIFIED for v in certify(net, x, y, 1e-3).verdicts)
    for verdict in found.verdicts:
        assert (verdict.status, verdict.stage) == (Status.UNKNOWN, after)
        assert verdict.reason == "not replayed"
        assert verdict.counterexample is None
        assert verdict.margin <= 0
    assert found.attacked_accuracy == 1
    assert found.certified_accuracy == 0


def test_a_counterexample_that_does_not_replay_keeps_nobody_from_finding_one():
    net, x, y = case()
    cascade = Cascade(("clean", "attack", "branch"), attack=Fake(0.0))
    found = certify(net, x, y, 0.5, cascade=cascade).verdicts
    plain = certify(net, x, y, 0.5, cascade=Cascade(("clean", "branch"))).verdicts
    broken = [v.index for v in plain if v.status is Status.FALSIFIED]
    assert broken
    assert [v.index for v in found if v.status is Status.FALSIFIED] == broken
    assert all(found[i].stage == "branch" for i in broken)


class Hungry:
    """Lets a module run out of memory on batches above a size, as CUDA or the CPU would."""

    def __init__(self, limit: int, error: BaseException) -> None:
        self.limit, self.error, self.sizes = limit, error, []

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.sizes.append(len(args[0]))
        if len(args[0]) > self.limit:
            raise self.error


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 123 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 123 bytes."),
]


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__ + str(e)[-8:])
def test_a_batch_that_does_not_fit_is_halved(error):
    net, x = make("dense", 1), images(10, 1)
    y = labels(net, x)
    cascade = Cascade(attack=PGD(steps=3))
    plain = certify(net, x, y, EPS, cascade=cascade)
    hungry = Hungry(3, error)
    net.register_forward_pre_hook(hungry)
    found = certify(net, x, y, EPS, cascade=cascade)
    assert max(hungry.sizes) == 10
    assert [(v.status, v.stage) for v in found.verdicts] == [
        (v.status, v.stage) for v in plain.verdicts
    ]


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__ + str(e)[-8:])
def test_a_single_image_that_does_not_fit_is_unknown(error):
    net, x, y = case()
    net.register_forward_pre_hook(Hungry(0, error))
    found = certify(net, x, y, EPS)
    for verdict in found.verdicts:
        assert (verdict.status, verdict.stage) == (Status.UNKNOWN, "clean")
        assert (verdict.reason, verdict.predicted) == ("memory", -1)


def test_a_bound_that_does_not_fit_is_unknown_and_keeps_what_was_proved():
    net, x, y = case()
    sizes = []

    def starve(margins: Tensor, box: Box, y: Tensor) -> Tensor:
        sizes.append(len(y))
        raise FULL[0]

    weak = Method(lambda margins, box, y: (margins - 50).scatter(1, y[:, None], torch.inf))
    found = certify(
        net, x, y, EPS, cascade=BOUNDS_ONLY, methods={"ibp": weak, "crown-ibp": Method(starve)}
    )
    assert sizes[0] == 10
    assert sizes.count(1) == 10
    for verdict in found.verdicts:
        assert (verdict.status, verdict.stage) == (Status.UNKNOWN, "crown-ibp")
        assert verdict.reason == "memory"
        assert -60 < verdict.margin < -40


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("cuDNN error"), KeyError("a")])
def test_any_other_exception_propagates(error):
    net, x, y = case()

    def fail(margins: Tensor, box: Box, y: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error)) as caught:
        certify(
            net,
            x,
            y,
            EPS,
            cascade=BOUNDS_ONLY,
            methods={"ibp": Method(fail), "crown-ibp": METHODS["crown-ibp"]},
        )
    assert caught.value is error


def test_margins_of_the_wrong_shape_are_a_bug_not_a_proof():
    net, x, y = case()
    method = Method(lambda margins, box, y: torch.ones(len(y), 1))
    with pytest.raises(ValueError, match="shape"):
        certify(net, x, y, EPS, cascade=Cascade(stages=("clean", "ibp")), methods={"ibp": method})


def test_an_operator_without_a_rule_is_refused_before_anything_runs():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x).flatten(1)[:, :3]

    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    heard = []
    with pytest.raises(UnsupportedOperator):
        certify(Odd(), x, y, EPS, on_stage=lambda name, count: heard.append(name))
    assert heard == []


def test_ties_are_neither_verified_nor_falsified():
    net, x, _ = case()
    for parameter in net.parameters():
        parameter.data.zero_()
    for label in (0, 1):
        y = torch.full((10,), label)
        statuses = {v.status for v in certify(net, x, y, EPS).verdicts}
        assert statuses == {Status.UNKNOWN}
