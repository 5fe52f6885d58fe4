"""What a user reads when a model cannot be traced: the line at fault and the way out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import ModelError, UnsupportedOperator
from taut.graph import trace
from taut.graph.messages import alternatives
from taut.operators.registry import BUILDERS, describe, supported


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x)
        if h.sum() > 0:  # MARK
            return h
        return -h


class Late(Branch):
    """Fx stops at the first question already; the answer is at fault only later."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 4:
            x = self.lin(x)
        return self.clip(x)

    def clip(self, x: Tensor) -> Tensor:
        return x * 2 if x.max() > 1 else x  # MARK


class Number(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.mean())  # MARK


class Loop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:  # MARK
            x = x / 2
        return x


class Array(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.detach().numpy().mean()  # MARK


class Asserts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3, "colours only"  # MARK
        return x


class Fits(Branch):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 4:
            x = x[:, 1:]
        return self.lin(x)  # MARK


class Missing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.rectify()  # MARK


class Condition(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,))  # MARK


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, 1)  # MARK


class AsksSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        return F.softmax(x, 1)  # MARK


FAULTS: dict[type[nn.Module], tuple[type[ModelError], str]] = {
    Branch: (ModelError, "Branch cannot be traced at .*values of a tensor"),
    Late: (ModelError, "Late cannot be traced at .*values of a tensor"),
    Number: (ModelError, "values of a tensor"),
    Loop: (ModelError, "values of a tensor"),
    Array: (UnsupportedOperator, r"no rule for Tensor\.detach"),
    Asserts: (ModelError, r"does not accept images of shape \(4,\).*colours only"),
    Fits: (ModelError, r"does not accept images of shape \(4,\).*cannot be multiplied"),
    Missing: (ModelError, r"Missing cannot be traced|does not accept.*rectify"),
    Condition: (UnsupportedOperator, r"no rule for torch\.cond"),
    Softmax: (UnsupportedOperator, "no rule for softmax at node 'softmax'"),
    AsksSoftmax: (UnsupportedOperator, "no rule for softmax at node 'softmax'"),
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_the_users_own_line_is_named(
    kind: type[nn.Module], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    error, words = FAULTS[kind]
    lines, first = inspect.getsourcelines(kind)
    (number,) = (first + i for i, line in enumerate(lines) if "# MARK" in line)
    with pytest.raises(error, match=words) as caught:
        trace(nn.Sequential(nn.Identity(), kind()) if kind is Softmax else kind(), (4,))
    assert f"{__file__}:{number}: {lines[number - first].strip()}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # export is talkative
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("target", "near"),
    [
        (nn.AvgPool3d, "nn.AvgPool2d"),
        (nn.Conv3d, "nn.Conv2d"),
        ("addmm_", "addmm"),
        (F.softsign, "softplus"),
        (torch.sin, "nn.Linear"),
    ],
)
def test_names_near_to_one_without_a_rule_are_offered(target: object, near: str) -> None:
    text = alternatives(target)
    assert near in text
    assert len(text) < 400
    shown = [name for name in {describe(each) for each in BUILDERS} if name in text]
    assert 3 <= len(shown) <= 30
    assert all(name in supported() for name in shown)


def test_the_whole_list_of_what_is_supported_is_complete() -> None:
    listed = supported().split(", ")
    assert {describe(target) for target in BUILDERS} == set(listed)
    assert len(listed) == len(set(listed))


def test_a_form_without_a_rule_says_what_to_change_and_lists_nothing() -> None:
    class Joins(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], 0).view(x.shape[0], -1)

    with pytest.raises(UnsupportedOperator, match="batch") as caught:
        trace(Joins(), (4,))
    assert "supported:" not in str(caught.value)


def test_out_of_memory_is_no_model_error() -> None:
    class Hungry(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        trace(Hungry(), (4,))


def call(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Calls()


def test_code_without_a_source_is_named_by_its_error_alone() -> None:
    space: dict[str, Callable[[Tensor], Tensor]] = {}
    exec("def f(x):\n    return x if x.sum() > 0 else -x", space)
    with pytest.raises(ModelError, match=r"cannot be traced at .*return function"):
        trace(call(space["f"]), (4,))
