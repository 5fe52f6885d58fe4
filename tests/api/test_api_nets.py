"""`taut.bounds`, `margins`, `attack` and `certify` on a user's own networks."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from user_nets import Unsupported, residual, sequential

import taut
from taut.bounds import IBP, METHODS, Backward
from taut.errors import ConfigError, DataError, ModelError, RegionError, UnsupportedOperator

NETS = {"sequential": (sequential, (5,)), "residual": (residual, (2, 6, 6))}
EPS = 0.05


def case(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = NETS[name]
    net = make().to(dtype)
    x = torch.rand(4, *shape, dtype=dtype)
    y = copy.deepcopy(net).eval()(x).argmax(1)
    return net, x, y


@pytest.mark.parametrize("method", [*METHODS, IBP(), Backward(lines="tight")], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_bounds_hold_every_sample(name: str, method: Any) -> None:
    net, x, y = case(name)
    box = taut.Box.around(x, EPS)
    net.train()  # bounds are those of the network in evaluation mode all the same
    state = copy.deepcopy(net.state_dict())
    found = taut.bounds(net, box, method)
    margins = taut.margins(net, box, y, method)
    assert net.training
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    net.eval()
    for point in (box.lower, box.upper, x, *(
        box.lower + torch.rand_like(x) * (box.upper - box.lower) for _ in range(50)
    )):  # fmt: skip
        logits = net(point)
        assert (found.lower - 1e-9 <= logits).all()
        assert (logits <= found.upper + 1e-9).all()
        gaps = logits.gather(1, y[:, None]) - logits
        assert (margins <= gaps + 1e-9).scatter(1, y[:, None], True).all()
    assert (margins.gather(1, y[:, None]) == math.inf).all()
    assert torch.equal(taut.bounds(net, box, method).lower, found.lower)  # leaves nothing behind


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_the_users_parameters(name: str) -> None:
    net, x, y = case(name)
    margins = taut.margins(net, taut.Box.around(x, EPS), y, "crown-ibp")
    margins[margins.isfinite()].sum().backward()
    weights = {n: p for n, p in net.named_parameters() if p.dim() > 1}
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in weights.values())


@pytest.mark.parametrize("name", NETS)
def test_verdicts_agree_with_bounds_and_attacks(name: str) -> None:
    net, x, y = case(name, torch.float32)
    net.eval()
    small = taut.certify(net, x, y, eps=1e-4)
    assert small.certified_accuracy == 1.0
    assert {v.status for v in small.verdicts} == {taut.Status.VERIFIED}
    large = taut.certify(net, x, y, eps=0.9)
    assert large.attacked_accuracy < 1.0
    for verdict in large.verdicts:
        if verdict.counterexample is not None:
            point = verdict.counterexample
            assert (point - x[verdict.index]).abs().max() <= 0.9 + 1e-6
            assert net(point[None]).argmax() != y[verdict.index]
    found = taut.attack(net, x, y, eps=0.9, attack=taut.PGD(steps=40, loss="margin"))
    assert found.point.shape == x.shape
    assert found.success.any()
    assert (net(found.point).argmax(1) != y)[found.success].all()
    assert (found.point >= 0).all()
    assert (found.point <= 1).all()
    assert ((found.point - x).abs() <= 0.9 + 1e-6).all()


def test_an_attack_does_not_depend_on_the_batches() -> None:
    net, x, y = case("sequential")
    one = taut.attack(net, x, y, eps=0.3, batch_size=3, seed=5)
    other = taut.attack(net, x, y, eps=0.3, seed=5)
    assert torch.allclose(one.point, other.point)
    assert not torch.equal(taut.attack(net, x, y, eps=0.3, seed=6).point, other.point)


def test_lines_change_the_bounds() -> None:
    net, x, _ = case("sequential")
    box = taut.Box.around(x, 0.2)
    best = taut.bounds(net, box, "crown", "best")
    for lines in ("constant", "tight", "adaptive"):
        assert (taut.bounds(net, box, "crown", lines).lower <= best.lower + 1e-9).all()
    constant = taut.bounds(net, box, "crown", "constant").lower
    assert (constant < best.lower - 1e-6).any()


def test_an_operation_without_a_rule_is_named() -> None:
    net, x, y = Unsupported(), torch.rand(2, 5), torch.tensor([0, 1])
    box = taut.Box.around(x, 0.1)
    calls: list[Any] = [
        lambda: taut.bounds(net, box),
        lambda: taut.margins(net, box, y),
        lambda: taut.certify(net, x, net(x).argmax(1), eps=0.1),
        lambda: taut.trace(net, (5,)),
    ]
    for call in calls:
        with pytest.raises(UnsupportedOperator) as caught:
            call()
        message = str(caught.value)
        assert "sin" in message
        assert "nn.Linear" in message  # the supported list
        assert "nn.Conv2d" in message
        assert "\n" not in message
    assert taut.attack(net, x, y, eps=0.1).point.shape == (2, 5)  # needs no rules


def box() -> taut.Box:
    return taut.Box.around(torch.rand(2, 5), 0.1)


Y = torch.tensor([0, 2])

MISTAKES: list[tuple[str, Any, type[taut.TautError], str]] = [
    ("method", lambda n: taut.bounds(n, box(), "magic"), ConfigError, "unknown bounding method"),
    ("lines", lambda n: taut.bounds(n, box(), "crown", "bent"), ConfigError, "lines must be"),
    ("ibp lines", lambda n: taut.bounds(n, box(), "ibp", "tight"), ConfigError, "no lines"),
    ("lines twice", lambda n: taut.bounds(n, box(), IBP(), "tight"), ConfigError, "by name"),
    ("double", lambda n: taut.bounds(n, box().to(dtype=torch.float64)), RegionError, "float64 on"),
    ("empty", lambda n: taut.bounds(n, box()[:0]), RegionError, "no image"),
    ("nan", lambda n: taut.bounds(n, taut.Box(torch.full((1, 5), torch.nan), torch.ones(1, 5))),
     RegionError, "NaN"),
    ("inverted", lambda n: taut.bounds(n, taut.Box(torch.ones(1, 5), torch.zeros(1, 5))),
     RegionError, "lower end above"),
    ("shape", lambda n: taut.bounds(n, taut.Box.around(torch.rand(2, 6), 0.1)), ModelError, "6"),
    ("label", lambda n: taut.margins(n, box(), torch.tensor([0, 3])), DataError, "label 3"),
    ("labels", lambda n: taut.margins(n, box(), torch.tensor([0.0, 1.0])), DataError, "whole"),
    ("eps", lambda n: taut.attack(n, torch.rand(2, 5), Y, -0.1), RegionError, ">= 0"),
    ("eps nan", lambda n: taut.attack(n, torch.rand(2, 5), Y, math.nan), RegionError, ">= 0"),
    ("pixels", lambda n: taut.attack(n, torch.rand(2, 5) + 1, Y, 0.1), DataError, "pixel range"),
    ("attack label", lambda n: taut.attack(n, torch.rand(2, 5), Y + 1, 0.1), DataError, "label 3"),
    ("attack shape", lambda n: taut.attack(n, torch.rand(2, 6), Y, 0.1), ModelError, "(6,)"),
    ("batch", lambda n: taut.attack(n, torch.rand(2, 5), Y, 0.1, batch_size=0), ConfigError, "at"),
    ("certify eps", lambda n: taut.certify(n, torch.rand(2, 5), Y, eps=-1), RegionError, ">= 0"),
    ("certify label", lambda n: taut.certify(n, torch.rand(2, 5), Y - 1, eps=0.1), DataError, "-1"),
    ("certify shape", lambda n: taut.certify(n, torch.rand(2, 4), Y, eps=0.1), ModelError, "(4,)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [m[1:] for m in MISTAKES],
                         ids=[m[0] for m in MISTAKES])  # fmt: skip
def test_a_mistake_is_told_in_one_line(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call(sequential())
    assert isinstance(caught.value, taut.TautError)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
