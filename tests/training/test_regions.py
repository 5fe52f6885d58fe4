"""Small boxes: where they lie, and what they become at both ends of the ratio."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from bound_formulas import at, ball, batch, chain, ibp, layers_of, losses
from torch import Tensor, nn
from training_helpers import Fixed, tiny_net

from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.training import (
    METHODS,
    Batch,
    FullBall,
    GridPoint,
    Mix,
    Progress,
    Radii,
    Region,
    SmallBox,
    TrainingAttack,
    choose,
)

EPS = 0.3
ROBUST = Mix(0.0, 0.0)


def setting(pixels: int = 4) -> tuple[nn.Sequential, Batch]:
    model, (x, y) = chain(pixels, 7, 6, 3), batch(pixels=pixels)
    return model, Batch(trace(model, (pixels,)), x, y)


@pytest.mark.parametrize("radius", ["per-dimension", "scalar"])
@pytest.mark.parametrize("ratio", [1e-6, 0.1, 0.5, 0.7, 0.999999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_box_lies_in_the_ball_and_in_the_pixel_range(
    radius: str, ratio: float, dtype: torch.dtype
) -> None:
    model = chain(40, 7, 6, 3, dtype=dtype)
    x, y = batch(pixels=40)
    x[:, :10] = x[:, :10].round()  # pixels at the ends, where the ball is cut
    data = Batch(trace(model, (40,)), x.to(dtype), y)
    region = SmallBox(ratio, radius=radius)  # type: ignore[arg-type]
    ((box, weight, *_),) = region.boxes(data, EPS, at(EPS))
    whole = Box.around(x.to(dtype), EPS)
    assert weight == 1.0
    assert bool((box.lower >= whole.lower).all())
    assert bool((box.upper <= whole.upper).all())
    assert bool((box.lower <= box.upper).all())
    wanted = ratio * (whole.upper - whole.lower)
    if radius == "per-dimension":
        torch.testing.assert_close(box.upper - box.lower, wanted, rtol=1e-4, atol=1e-6)
    else:
        tau = torch.full_like(wanted, 2 * ratio * EPS).minimum(whole.upper - whole.lower)
        torch.testing.assert_close(box.upper - box.lower, tau, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("radius", ["per-dimension", "scalar"])
def test_the_box_is_the_formulas(radius: str) -> None:
    _, data = setting()
    low, high = ball(data.x, EPS)
    point = low + 0.9 * (high - low)
    tau = 0.7 * (high - low) / 2
    if radius == "scalar":
        tau = torch.full_like(low, 0.7 * EPS)
    middle = torch.minimum(torch.maximum(point, low + tau), high - tau)
    region = SmallBox(0.7, Fixed(), radius=radius)  # type: ignore[arg-type]
    ((box, *_),) = region.boxes(data, EPS, at(EPS))
    expected = (torch.maximum(middle - tau, low), torch.minimum(middle + tau, high))
    torch.testing.assert_close((box.lower, box.upper), expected, rtol=0, atol=1e-15)


def test_the_box_holds_the_adversarial_point_where_the_clip_allows_it() -> None:
    _, data = setting()
    region = SmallBox(0.4)
    ((box, *_),) = region.boxes(data, EPS, at(EPS))
    point = region.attack.points(data, Box.around(data.x, EPS), at(EPS))
    assert bool((point >= box.lower - 1e-12).all())
    assert bool((point <= box.upper + 1e-12).all())


@pytest.mark.parametrize("inner", [FullBall(), FullBall(clip=False), Radii(3)])
def test_with_ratio_1_it_is_the_inner_region_bit_for_bit(inner: Region) -> None:
    model = tiny_net()
    graph = trace(model, (1, 4, 4))
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    found = GridPoint(region=SmallBox(1.0, inner=inner), combination=ROBUST)
    plain = GridPoint(region=inner, combination=ROBUST)
    totals = [method.loss(graph, x, y, at(EPS)).total for method in (found, plain)]
    assert torch.equal(*totals)
    gradients = [torch.autograd.grad(total, list(model.parameters())) for total in totals]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_with_ratio_1_there_is_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("attacked")

    monkeypatch.setattr(TrainingAttack, "points", refuse)
    _, data = setting()
    assert len(SmallBox(1.0).boxes(data, EPS, at(EPS))) == 1
    with pytest.raises(AssertionError, match="attacked"):
        SmallBox(0.5).boxes(data, EPS, at(EPS))


@pytest.mark.parametrize("norm", [False, True])
def test_with_a_tiny_ratio_it_is_training_at_the_attacked_point(norm: bool) -> None:
    torch.manual_seed(2)
    model = tiny_net(norm=norm).double()
    x, y = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3
    graph = trace(model, (1, 4, 4))
    method = GridPoint(region=SmallBox(1e-6), combination=ROBUST)
    assert model.training
    _, network = graph.clean(x)  # bounds go by the statistics of the clean batch,
    # the attack by the running ones, which that pass has moved
    point = SmallBox(1e-6).attack.points(Batch(graph, x, y), Box.around(x, EPS), at(EPS))
    expected = F.cross_entropy(network(point), y)
    assert bool(expected > F.cross_entropy(network(x), y) + 1e-2)
    if norm:
        model[1].reset_running_stats()  # type: ignore[operator]
    found = method.loss(graph, x, y, at(EPS)).total
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_sabr_is_ibp_over_the_small_box() -> None:
    model, data = setting()
    method = METHODS["sabr"].method
    found = method.loss(trace(model, (4,)), data.x, data.y, at(EPS))
    low, high = ball(data.x, EPS)
    attack = TrainingAttack(steps=8, step=0.5, milestones=(4, 7))
    point = attack.points(data, Box(low, high), at(EPS))
    tau = 0.4 * (high - low) / 2
    middle = torch.minimum(torch.maximum(point, low + tau), high - tau)
    expected = losses(ibp(layers_of(model), middle - tau, middle + tau, data.y)).mean()
    torch.testing.assert_close(found.total, expected, rtol=1e-11, atol=1e-11)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.total, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    ramp = METHODS["ramp-sabr"].method.loss(trace(model, (4,)), data.x, data.y, at(EPS))
    assert torch.equal(ramp.total, found.total.detach())


def test_gm_sabr_attacks_once_and_moves_the_point_into_every_ball(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = setting()
    calls = []
    climb = TrainingAttack.points

    def watched(self: TrainingAttack, batch: Batch, box: Box, progress: Progress) -> Tensor:
        calls.append(box)
        return climb(self, batch, box, progress)

    monkeypatch.setattr(TrainingAttack, "points", watched)
    method = choose("gm-sabr", {"inner": {"count": 4}})
    found = method.loss(trace(model, (4,)), data.x, data.y, at(EPS)).total
    assert len(calls) == 1
    low, high = ball(data.x, EPS)
    assert torch.equal(calls[0].lower, low)
    assert torch.equal(calls[0].upper, high)
    point = climb(SmallBox().attack, data, Box(low, high), at(EPS))
    weights = [1 / math.sqrt(i) for i in range(1, 5)]
    expected = torch.zeros((), dtype=torch.float64)
    for i, weight in enumerate(weights, start=1):
        low, high = ball(data.x, EPS * i / 4)
        tau = 0.4 * (high - low) / 2
        middle = torch.minimum(torch.maximum(point, low + tau), high - tau)
        loss = losses(ibp(layers_of(model), middle - tau, middle + tau, data.y)).mean()
        expected = expected + weight / sum(weights) * loss
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_a_warm_up_epoch_is_natural_training_and_attacks_nothing() -> None:
    model, data = setting()
    progress = Progress(step=0, epoch=1, eps=0.0, eps_max=EPS, natural_only=True)
    for name in ("sabr", "gm-sabr", "gm-ibp", "staps"):
        found = METHODS[name].method.loss(trace(model, (4,)), data.x, data.y, progress)
        expected = F.cross_entropy(model(data.x), data.y)
        torch.testing.assert_close(found.total, expected, rtol=1e-12, atol=1e-12)


def test_the_small_box_does_not_depend_on_the_other_images() -> None:
    model, data = setting()
    graph, progress = trace(model, (4,)), at(EPS)
    assert progress.seeds is not None
    ((whole, *_),) = SmallBox(0.3).boxes(data, EPS, progress)
    part = Batch(graph, data.x[2:4], data.y[2:4])
    few = Progress(step=3, epoch=2, eps=EPS, eps_max=EPS, seeds=progress.seeds[2:4])
    ((small, *_),) = SmallBox(0.3).boxes(part, EPS, few)
    torch.testing.assert_close(small.lower, whole.lower[2:4], rtol=0, atol=1e-12)


def test_fields_that_do_not_fit_are_refused() -> None:
    for ratio in (0.0, 1.5, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"method\.ratio"):
            SmallBox(ratio)
    with pytest.raises(ConfigError, match=r"method\.radius"):
        SmallBox(0.5, radius="box")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"method\.attack\.scale"):
        SmallBox(0.5, TrainingAttack(scale=2.0))
    _, data = setting()
    with pytest.raises(ConfigError, match="per-dimension"):
        SmallBox(0.5, radius="scalar", inner=Radii(2)).boxes(data, EPS, at(EPS))
