"""Instances: tiny networks against linear programs over all patterns; answers that are none."""

from __future__ import annotations

import gc
import importlib
import itertools
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, fx, nn

from taut.attacks import PGD
from taut.bounds import METHODS
from taut.errors import ConfigError, PropertyError
from taut.graph import trace
from taut.property.case import Case
from taut.property.exact import Constraint, Exact
from taut.verify.deadline import Clock, OutOfTime, interrupting
from taut.verify.instance import Procedure, decide
from taut.verify.outcome import Answer, State, answered
from taut.verify.witness import Witness, witnessed
from tests.counts import cases

HIDDEN, CLASSES = 5, 3
QUICK = Procedure(stages=("attack", "ibp", "crown"), attack=PGD(steps=10, loss="margin"), numbers=1)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    for parameter in net.parameters():
        parameter.data.mul_(2)
    return net


def constraint(coefficients: Sequence[float], offset: float | Fraction) -> Constraint:
    terms = tuple((k, Fraction(a)) for k, a in enumerate(coefficients) if a)
    return Constraint(terms, Fraction(offset))


def case_of(
    groups: Sequence[Sequence[Constraint]],
    lower: Sequence[float | str] = (-1, -1),
    upper: Sequence[float | str] = (1, 1),
    outputs: int = CLASSES,
) -> Case:
    ends = (tuple(Fraction(v) for v in end) for end in (lower, upper))
    return Case.of(Exact(*ends, tuple(tuple(group) for group in groups)), outputs)


def least(net: nn.Sequential, case: Case) -> float:
    """The least value that the largest row of some group takes, by programs over all patterns.

    With the signs of all hidden neurons fixed the network is linear.
    """
    first, last = net[0], net[2]
    w, b = (t.detach().double().numpy() for t in (first.weight, first.bias))
    v, c = (t.detach().double().numpy() for t in (last.weight, last.bias))
    rows, offsets = case.specification.rows.numpy(), case.specification.offsets.numpy()
    groups = case.specification.groups.numpy()
    bounds = [*zip(case.lower.tolist(), case.upper.tolist(), strict=True), (None, None)]
    best = np.inf
    for signs in itertools.product((-1.0, 1.0), repeat=len(w)):
        sign = np.array(signs)
        active = v * (sign > 0)
        # sign (w x + b) >= 0, and every row at most t
        pattern = np.hstack([-sign[:, None] * w, np.zeros((len(w), 1))])
        for group in range(case.specification.count):
            a = rows[groups == group]
            slope, shift = a @ active @ w, a @ (active @ b + c) - offsets[groups == group]
            done = linprog(
                [0, 0, 1],
                A_ub=np.vstack([pattern, np.hstack([slope, -np.ones((len(a), 1))])]),
                b_ub=np.concatenate([sign * b, -shift]),
                bounds=bounds,
            )
            if done.status == 0:
                best = min(best, float(done.fun))
    return best


def drawn(net: nn.Sequential, seed: int) -> tuple[Case, float]:
    """A case of two groups, of two rows and one, whose least value is near zero."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(-4, 5, (3, CLASSES)) / 4.0
    rows[np.abs(rows).sum(1) == 0] = 1.0
    offsets = np.zeros(3)
    plain = case_of([[constraint(rows[0], 0), constraint(rows[1], 0)], [constraint(rows[2], 0)]])
    shift = least(net, plain) + generator.choice([-1.0, 0.3, -0.02, 0.02])
    offsets += round(shift, 4)
    groups = [
        [constraint(rows[0], offsets[0]), constraint(rows[1], offsets[1])],
        [constraint(rows[2], offsets[2])],
    ]
    case = case_of(groups)
    return case, least(net, case)


def check_witness(net: nn.Module, case: Case, witness: Witness | None) -> None:
    assert witness is not None
    assert case.exact.inside(witness.point)
    shape = (1, len(witness.point))
    x = torch.tensor([float(v) for v in witness.point], dtype=torch.float64).view(shape)
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad():
            z = net.to(dtype)(x.to(dtype)).flatten().double().tolist()
        assert any(
            all(sum(a * Fraction(z[k]) for k, a in row.terms) <= row.offset for row in group)
            for group in case.exact.groups
        )
    net.float()


@pytest.mark.parametrize("seed", range(cases(24)))
def test_tiny_networks_are_decided_as_linear_programs_decide_them(seed: int) -> None:
    net = network(seed)
    case, value = drawn(net, seed)
    found = decide(net, (2,), [case], Procedure(timeout=20))
    if found.answer is Answer.SAT:
        assert value <= 1e-6
        check_witness(net, case, found.witness)
    elif found.answer is Answer.UNSAT:
        assert value > -1e-6
    if abs(value) > 1e-3:
        assert found.answer is (Answer.SAT if value < 0 else Answer.UNSAT), found


def test_an_instance_of_several_boxes_is_sat_if_one_of_them_is() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.zero_()
    unsafe = [[constraint([-1.0], -2)]]  # z >= 2
    boxes = [case_of(unsafe, [low], [low + 1], 1) for low in (-1, 0, 3, -5)]
    found = decide(net, (1,), boxes)
    assert found.answer is Answer.SAT
    assert found.witness is not None
    assert 3 <= found.witness.point[0] <= 4
    assert decide(net, (1,), [boxes[0], boxes[1], boxes[3]]).answer is Answer.UNSAT


def linear(weights: Sequence[float]) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    net[0].weight.data = torch.tensor([weights])
    return net


@pytest.mark.parametrize("seed", range(cases(10)))
@pytest.mark.parametrize("off", ["0", "1e-9", "-1e-9", "1e-17", "-1e-17", "-1e-6", "1e-6"])
def test_at_the_border_no_answer_is_wrong(seed: int, off: str) -> None:
    """The least value of a linear network, to the last digit, and a little beside it."""
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal(6).astype(np.float32).tolist()
    ends = generator.integers(-1000, 1000, (2, 6)) / 1000
    lower, upper = ([str(v) for v in end(ends, 0)] for end in (np.min, np.max))
    minimum = sum(
        Fraction(w) * Fraction(low if w > 0 else high)
        for w, low, high in zip(weights, lower, upper, strict=True)
    )
    case = case_of([[constraint([1.0], minimum + Fraction(off))]], lower, upper, 1)
    found = decide(linear(weights), (6,), [case], QUICK)
    reachable = Fraction(off) >= 0
    assert found.answer is not (Answer.UNSAT if reachable else Answer.SAT)
    if Fraction(off) <= Fraction("-1e-6"):
        assert found.answer is Answer.UNSAT  # by less than float32 is trusted with


def test_inputs_that_no_float_holds() -> None:
    """X is a tenth: the answer has to do with a tenth, not with the floats beside it."""
    net = linear([1.0])
    above = case_of([[constraint([-1.0], Fraction("-0.1"))]], ["0.1"], ["0.1"], 1)
    found = decide(net, (1,), [above])
    assert found.answer is Answer.SAT  # either float of a tenth is a little more
    assert found.witness is not None
    assert found.witness.point == (Fraction("0.1"),)
    below = case_of([[constraint([1.0], Fraction("0.1"))]], ["0.1"], ["0.1"], 1)
    assert decide(net, (1,), [below]).answer is Answer.UNKNOWN


def test_a_counterexample_counts_when_everybody_agrees() -> None:
    net, case = linear([1.0]), case_of([[constraint([1.0], -0.5)]], [-1], [1], 1)
    asked: list[Tensor] = []

    def same(x: Tensor) -> Tensor:
        asked.append(x)
        return x.flatten()

    found = decide(net, (1,), [case], evaluators=[same])
    assert found.answer is Answer.SAT
    assert len(asked) == 1
    assert asked[0].dtype == torch.float32
    assert decide(net, (1,), [case], evaluators=[same, lambda x: x + 1]).reason == "not replayed"
    other = decide(net, (1,), [case], evaluators=[lambda x: x * torch.nan])
    assert (other.answer, other.reason, other.witness) == (Answer.UNKNOWN, "not replayed", None)


def test_a_point_that_is_no_counterexample_is_not_witnessed() -> None:
    net, case = linear([1.0]), case_of([[constraint([1.0], -0.5)]], [-1], [1], 1)
    assert witnessed(net, case, torch.tensor([-0.75])) is not None
    assert witnessed(net, case, torch.tensor([-0.25])) is None
    moved = witnessed(net, case, torch.tensor([-7.0]))  # into the box
    assert moved is not None
    assert moved.point == (Fraction(-1),)


class Lying:
    """A bounding method that claims a bound for every margin."""

    def __init__(self, value: float) -> None:
        self.value = value

    def margins(self, net: Any, box: Any, y: Tensor) -> Tensor:
        found = torch.full((1, net.classes), self.value)
        found[0, 0] = torch.inf
        return found


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1e6, "contradiction"), (torch.nan, "nan"), (torch.inf, "nan"), (-1.0, "stages exhausted")],
)
def test_bounds_that_cannot_be_prove_nothing(
    value: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ibp", Lying(value))  # type: ignore[misc]
    case = case_of([[constraint([1.0], -0.5)]], [0], [1], 1)
    found = decide(linear([1.0]), (1,), [case], Procedure(stages=("ibp",)))
    assert (found.answer, found.reason) == (Answer.UNKNOWN, reason)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_prove_nothing(value: float) -> None:
    net = network(0)
    net[2].weight.data[0, 0] = value
    case = case_of([[constraint([1.0, 0, 0], -1e9)]])
    found = decide(net, (2,), [case], Procedure(stages=("attack", "ibp", "crown")))
    assert found.answer is Answer.UNKNOWN


def test_memory_that_runs_out_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry:
        def margins(self, *given: Any) -> Tensor:
            raise MemoryError

    monkeypatch.setitem(METHODS, "ibp", Hungry())  # type: ignore[misc]
    case = case_of([[constraint([1.0], -0.5)]], [0], [1], 1)
    assert decide(linear([1.0]), (1,), [case], Procedure(stages=("ibp",))).reason == "memory"
    assert decide(linear([1.0]), (1,), [case]).answer is Answer.UNSAT  # by crown


class Slow:
    """A bounding method that works for a minute, in small steps."""

    def margins(self, *given: Any) -> Tensor:
        for _ in range(600):
            time.sleep(0.1)
        raise AssertionError


def test_time_runs_out_in_the_middle_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    net, case = linear([1.0]).train(), case_of([[constraint([1.0], -0.5)]], [0], [1], 1)
    before = signal.getsignal(signal.SIGALRM)
    decide(net, (1,), [case])  # what is imported and traced first
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "ibp", Slow())  # type: ignore[misc]
        began = time.perf_counter()
        found = decide(net, (1,), [case], Procedure(stages=("ibp", "crown"), timeout=0.3))
        assert time.perf_counter() - began < 10
    assert (found.answer, found.reason, found.stage) == (Answer.TIMEOUT, "timeout", "ibp")
    assert found.seconds >= 0.3
    assert net.training
    assert torch.is_grad_enabled()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert decide(net, (1,), [case]).answer is Answer.UNSAT


def test_elsewhere_than_in_the_main_thread_time_is_looked_at_between_stages() -> None:
    net, case = linear([1.0]), case_of([[constraint([1.0], -0.5)]], [0], [1], 1)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(decide(net, (1,), [case]).answer))
    thread.start()
    thread.join()
    assert answers == [Answer.UNSAT]
    late = Clock(-1.0)
    with pytest.raises(OutOfTime):
        late.check()


def test_an_import_is_not_interrupted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "import time\nfor _ in range(30):\n    time.sleep(0.01)\ndone = True\n"
    (tmp_path / "slow_to_import.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        with interrupting(Clock(0.05)):
            importlib.import_module("slow_to_import")
            time.sleep(20)

    with pytest.raises(OutOfTime):
        work()
    assert importlib.import_module("slow_to_import").done


def test_a_drawing_under_way_is_finished_first() -> None:
    """It replaces methods of all modules, which an exception could leave replaced."""
    drawn = []

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.1)
            drawn.append(type(x))
            return x * 2.0

    before = nn.Module.__call__, nn.Module.__getattr__

    def work() -> None:
        with interrupting(Clock(0.05)):
            trace(Slow(), (3,))
            time.sleep(20)

    with pytest.raises(OutOfTime):
        work()
    assert fx.Proxy in drawn
    assert before == (nn.Module.__call__, nn.Module.__getattr__)


def test_an_interruption_that_is_lost_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody can catch what the callback of a weak reference raises."""
    calls = []

    class Watched:
        pass

    def call(reference: object) -> None:
        calls.append(reference)
        time.sleep(0.1)

    def work() -> None:
        with interrupting(Clock(0.05)):
            seen = Watched()
            kept = weakref.ref(seen, call)
            del seen
            assert kept() is None
            time.sleep(20)

    hook, began = sys.unraisablehook, time.perf_counter()
    with pytest.raises(OutOfTime):
        work()
    assert time.perf_counter() - began < 0.9  # before the next of the timer's seconds
    assert len(calls) == 1
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_what_the_collector_calls_is_finished_first() -> None:
    """An exception raised there would be lost, with a warning."""
    finished = []

    def call(phase: str, info: dict[str, int]) -> None:
        time.sleep(0.1)
        finished.append(phase)

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.1)
            finished.append("finaliser")

    def work(begin: Callable[[], object]) -> None:
        with interrupting(Clock(0.05)):
            begin()
            time.sleep(20)

    with pytest.raises(OutOfTime):
        work(Slow)
    assert finished == ["finaliser"]
    finished.clear()
    gc.callbacks.append(call)
    try:
        with pytest.raises(OutOfTime):
            work(gc.collect)
    finally:
        gc.callbacks.remove(call)
    assert finished == ["start", "stop"]


def test_the_same_seed_gives_the_same_answer() -> None:
    net = network(3)
    case = case_of([[constraint([1.0, 0, 0], 0.3)], [constraint([0, 1.0, 0], 0.1)]])
    first, second = (decide(net, (2,), [case], Procedure(seed=5)) for _ in range(2))
    assert first.answer is Answer.SAT
    assert first.witness == second.witness


def test_networks_of_any_shape_and_precision() -> None:
    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x))  # (B, 2, 1, 2): four outputs

    torch.manual_seed(0)
    net, x = Signal().double(), torch.rand(500, 1, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        largest = float(net(x).flatten(1).amax())
    for offset, answer in ((0.5 * largest, Answer.SAT), (20.0, Answer.UNSAT)):
        groups = [[constraint(-np.eye(4)[k], -offset)] for k in range(4)]
        found = decide(net, (1, 2, 3), [case_of(groups, [0] * 6, [1] * 6, 4)], QUICK)
        assert found.answer is answer


def test_what_does_not_fit_is_refused() -> None:
    case = case_of([[constraint([1.0], -0.5)]], [0], [1], 1)
    with pytest.raises(PropertyError, match="about 1 inputs, and the network's have 2"):
        decide(network(0), (2,), [case])
    with pytest.raises(ConfigError, match="at least one case"):
        decide(linear([1.0]), (1,), [])
    for wrong, told in (
        ({"stages": ("ibp", "magic")}, "unknown stage 'magic'"),
        ({"stages": ("ibp", "ibp")}, "each once"),
        ({"stages": ()}, "one stage or more"),
        ({"timeout": 0.0}, "positive seconds"),
    ):
        with pytest.raises(ConfigError, match=told):
            Procedure(**wrong)  # type: ignore[arg-type]


def test_an_answer_fails_closed() -> None:
    proved, open_case = State(proved=True), State()
    against = State(proved=True, reason="nan")
    assert answered([proved, proved], "ibp", 0.0).answer is Answer.UNSAT
    for states in ([], [open_case], [proved, open_case], [against], [proved, against]):
        assert answered(states, "ibp", 0.0).answer is Answer.UNKNOWN
        assert answered(states, "ibp", 0.0, expired=True).answer is Answer.TIMEOUT
    assert answered([against], "ibp", 0.0).reason == "nan"
