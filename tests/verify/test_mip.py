"""Mixed-integer programs against linear regions, other encodings, cells one by one and samples."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mip_reference import (
    KINDS,
    case,
    dense_case,
    known,
    minimum_by_milp,
    minimum_by_regions,
)
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from torch import Tensor, nn

from taut.bounds import backward, propagate
from taut.errors import ConfigError
from taut.graph import trace
from taut.region import Box
from taut.verify import Cascade, Status, certify, replay
from taut.verify.boxes import exact_box, inner_box, outer_box
from taut.verify.complete import Question, verifier
from taut.verify.mip import MIP, Encoding, HiGHS, Program, Solution, decide
from taut.verify.mip.tighten import tightened

CLOSE = 1e-7
ROW = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)


def boxed(shape: tuple[int, ...], seed: int, eps: float = 0.3) -> Box:
    generator = torch.Generator().manual_seed(seed)
    return Box.around(torch.rand(1, *shape, generator=generator).double(), eps)


def inside(box: Box, count: int, seed: int = 0) -> Tensor:
    """Points of a box of one image, a third of their pixels at an end."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *box.shape[1:], generator=generator).double()
    ends = torch.rand(share.shape, generator=generator) < 1 / 3
    share = torch.where(ends, share.round(), share)
    return box.lower + share * (box.upper - box.lower)


def question(model: nn.Module, x: Tensor, y: Tensor, eps: float, seconds: float = 60.0) -> Question:
    exact, weight = exact_box(x, eps, (0.0, 1.0)), next(model.parameters())
    classes = model(x[:1].to(weight)).shape[1]
    return Question(
        model.eval(),
        trace(model, tuple(x.shape[1:])).instance(),
        outer_box(exact, weight.dtype),
        inner_box(exact, weight.dtype),
        y,
        torch.full((len(x), classes), -math.inf).scatter(1, y[:, None], math.inf),
        torch.zeros(len(x)),
        [seconds] * len(x),
        [0] * len(x),
    )


def by_scipy(program: Program, cost: np.ndarray) -> float:
    """The minimum of a form over a program, without the project's own solvers."""
    matrix = csr_array(
        (program.entries, program.columns, program.starts),
        shape=(len(program.row_lower), len(program.cost)),
    )
    found = milp(
        cost,
        integrality=program.integer.astype(int),
        bounds=Bounds(program.lower, program.upper),
        constraints=LinearConstraint(matrix, program.row_lower, program.row_upper),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0, found.message
    return float(found.fun)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_program_has_the_minimum_of_its_network(kind: str, seed: int) -> None:
    model, layers, shape = case(kind, seed)
    box = boxed(shape, seed)
    encoding = Encoding(*known(model, box))
    program = encoding.minimising(ROW)
    expected = minimum_by_milp(layers, ROW.numpy(), box)
    if seed == 0 and kind != "conv":
        regions = minimum_by_regions(layers, ROW.numpy(), box)
        assert regions == pytest.approx(expected, abs=CLOSE)
    found = HiGHS().solve(program)
    assert encoding.exact
    assert found.status == "optimal"
    assert found.value == pytest.approx(expected, abs=CLOSE)
    assert expected - 1e-4 < found.bound <= expected
    assert found.point is not None
    assert program.violation(found.point) < 1e-8
    image = encoding.image(found.point, box)
    assert bool(box.contains(image[None]).all())
    assert float((model(image[None])[0] @ ROW).detach()) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("kind", [*KINDS, "sigmoid"])
@pytest.mark.parametrize("seed", range(2))
def test_linear_programs_lie_between_crown_and_the_minimum(kind: str, seed: int) -> None:
    model = curved(seed) if kind == "sigmoid" else case(kind, seed).model
    shape = (4,) if kind == "sigmoid" else case(kind, seed).shape
    box = boxed(shape, seed)
    net, bounds = known(model, box)
    least = (model(inside(box, 4000)) @ ROW).min().item()
    for lines in ("adaptive", "tight"):
        crown = backward.margins(net, bounds, torch.tensor([0]), lines)[0, 1].item()
        encoding = Encoding(net, bounds)
        found = HiGHS().solve(encoding.minimising(ROW).relaxed())
        assert crown - CLOSE < found.bound <= least
    if kind != "sigmoid":
        assert found.bound <= HiGHS().solve(encoding.minimising(ROW)).value + CLOSE
    else:
        assert not encoding.exact


def curved(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*layers).double().eval()


class Gate(nn.Module):
    """A product of branches and a square, which curve, and a maximum of two."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return self.last(left * right + torch.maximum(left, right) - right**2)


@pytest.mark.parametrize("kind", [*KINDS, "sigmoid", "gate"])
def test_the_points_of_a_network_keep_the_rows(kind: str) -> None:
    torch.manual_seed(5)
    special = {"sigmoid": curved(1), "gate": Gate().double().eval()}
    model, shape = (special[kind], (4,)) if kind in special else (case(kind, 7).model, None)
    box = boxed(shape or case(kind, 7).shape, 3)
    encoding = Encoding(*known(model, box))
    program, pixels = encoding.minimising(ROW), encoding.values[0].index
    assert (pixels >= 0).all()
    for x in inside(box, 6):
        lower, upper = program.lower.copy(), program.upper.copy()
        lower[pixels] = upper[pixels] = x.flatten().numpy()
        here = replace(program, lower=lower, upper=upper)
        value = float((model(x[None])[0] @ ROW).detach())
        low, high = by_scipy(here, program.cost), -by_scipy(here, -program.cost)
        if encoding.exact:
            assert [low, high] == pytest.approx([value - program.offset] * 2, abs=1e-6)
        assert low - 1e-7 <= value - program.offset <= high + 1e-7
    assert encoding.exact == (kind not in special)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["relu", "ramp", "pool"])
def test_images_are_decided_as_the_minimum_says(kind: str, dtype: torch.dtype) -> None:
    seen = set()
    for seed in range(3):
        model, layers, shape = case(kind, seed)
        x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        with torch.no_grad():  # closer to the border between the classes
            y, shift = model(x.double()).argmax(1), 0.8 * model(x.double())[0]
        model[-1].bias.data -= shift
        layers[-1] = layers[-1]._replace(bias=layers[-1].bias - shift.numpy())
        y[0] = model(x[:1].double()).argmax()
        model = model.to(dtype)
        for eps in (0.05, 0.4):
            asked = question(model, x, y, eps)
            answers = MIP().decide(asked)
            assert len(answers) == 2
            for place, answer in enumerate(answers):
                label = int(y[place])
                box = exact_box(x[place : place + 1], eps, (0.0, 1.0))
                rows = [np.eye(3)[label] - np.eye(3)[j] for j in range(3) if j != label]
                least = min(minimum_by_milp(layers, row, box) for row in rows)
                assert answer.bound <= least + 1e-6
                assert answer.reason == ""
                assert (answer.point is not None) == (least < 0)
                if answer.point is not None:
                    found = replay(model, x[place], label, eps, answer.point)
                    assert found.reproduced
                else:
                    assert answer.bound > 0
                seen.add(answer.point is None)
    assert seen == {True, False}


def hard() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    layers = nn.Linear(25, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 3)
    model = nn.Sequential(*layers).double()
    x = torch.rand(1, 25).double()
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("relax", [False, True])
def test_a_time_limit_leaves_a_sound_bound(relax: bool) -> None:
    model, x, y = hard()
    asked = question(model, x, y, 0.4, seconds=0.05)
    (answer,) = MIP(relax=relax).decide(replace(asked, threshold=torch.tensor([50.0])))
    assert answer.reason == "timeout" or answer.point is not None
    margins = model(inside(asked.box, 4000)).detach()
    others = margins.scatter(1, y.expand(4000)[:, None], -math.inf).amax(1)
    assert answer.bound <= float((margins[:, int(y)] - others).min())
    net, bounds = known(model, asked.box)
    program = Encoding(net, bounds).minimising(ROW)
    found = HiGHS().solve(program, time_limit=0.5)
    assert found.status == "timeout"
    assert found.bound <= float((margins @ ROW).min())
    assert (found.point is None) == (found.value == math.inf)
    (late,) = MIP().decide(replace(asked, seconds=[0.0]))
    assert (late.reason, late.bound, late.parts) == ("timeout", -math.inf, 0)


def test_a_search_stops_when_the_sign_is_known() -> None:
    model, _, shape = dense_case("relu", 1, (12, 16, 16, 3))
    program = Encoding(*known(model, boxed(shape, 1))).minimising(ROW)
    whole = HiGHS().solve(program, 20)
    assert whole.status == "optimal"
    assert whole.nodes > 1
    for level in (whole.value - 0.5, whole.value + 0.5):
        found = HiGHS().solve(program, 20, stop_above=level, stop_below=level)
        assert found.status == "stopped"
        assert found.bound > level or found.value < level
        assert found.bound <= whole.value <= found.value + CLOSE
        assert found.nodes <= whole.nodes


@pytest.mark.parametrize("field", ["cost", "entries", "lower", "upper", "row_lower", "row_upper"])
@pytest.mark.parametrize("bad", [math.nan, 1e30])
def test_a_program_that_a_solver_cannot_take_proves_nothing(field: str, bad: float) -> None:
    model, _, shape = dense_case("relu", 1, (4, 5, 3))
    whole = Encoding(*known(model, boxed(shape, 1))).minimising(ROW)
    numbers = getattr(whole, field).copy()
    numbers[-1] = bad
    for program in (whole, whole.relaxed()):
        found = HiGHS().solve(replace(program, **{field: numbers}), 20)
        assert found.status == "failed" or math.isfinite(bad)
        assert found.status == "failed" or found.bound <= found.value + CLOSE


class Unfinished:
    """Solves linear programs; runs out of time on others, which it has proved up to a level."""

    def __init__(self, bound: float, status: str = "timeout") -> None:
        self.bound, self.status = bound, status

    def solve(self, program: Program, *limits: float, **more: float) -> Solution:
        if program.is_linear:
            return HiGHS().solve(program)
        if self.status == "raise":
            raise MemoryError
        return Solution(self.status, self.bound, nodes=7)


@pytest.fixture
def gap() -> tuple[Question, float]:
    """A question that only programs with integers prove, and its linear bound."""
    for seed in range(40):
        model, layers, shape = dense_case("relu", seed)
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)).double()
        y = model(x).argmax(1)
        asked = question(model, x, y, 0.25)
        rows = [np.eye(3)[int(y)] - np.eye(3)[j] for j in range(3) if j != int(y)]
        if min(minimum_by_milp(layers, row, asked.box) for row in rows) > 0.01:
            encoding = Encoding(*known(model, asked.box))
            linear = [
                HiGHS().solve(encoding.minimising(torch.from_numpy(row)).relaxed()).value
                for row in rows
            ]
            if min(linear) < -0.01:
                return asked, min(linear)
    raise AssertionError("no network has a gap")


def test_protocols_differ_in_what_a_program_without_time_is_worth(
    gap: tuple[Question, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, linear = gap
    assert MIP().decide(asked)[0].bound > 0
    assert MIP(protocol="gm-protocol").decide(asked)[0].bound > 0
    (relaxed,) = MIP(relax=True).decide(asked)
    assert (relaxed.reason, relaxed.point) == ("undecided", None)
    assert relaxed.bound == pytest.approx(linear, abs=1e-6)
    monkeypatch.setattr(decide, "solver_named", lambda name: Unfinished(0.5))
    (dual,) = MIP().decide(asked)
    assert (dual.bound, dual.reason) == (0.5, "")
    (open_,) = MIP(protocol="gm-protocol").decide(asked)
    assert open_.reason == "timeout"
    assert open_.bound == pytest.approx(linear, abs=1e-6)


def test_the_linear_program_and_the_protocol_are_stages() -> None:
    """Each decides what its settings of ``MIP`` decide, whatever those of ``mip`` are."""
    given = MIP(tighten="lp", share=0.25)
    assert verifier("lp", mip=given) == replace(given, relax=True)
    assert verifier("lp", mip=replace(given, protocol="gm-protocol")) == replace(given, relax=True)
    wanted = replace(given, protocol="gm-protocol")
    assert verifier("gm-protocol", mip=replace(given, relax=True)) == wanted
    assert verifier("mip", mip=given) is given
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    model = model.double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(2.5 if weight.dim() == 2 else 1.0)
    x = torch.rand(30, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = {
        stage: certify(model, x, y, 0.3, cascade=Cascade(("clean", stage))).verdicts
        for stage in ("lp", "mip", "gm-protocol")
    }
    proved = {
        stage: {v.index for v in verdicts if v.status is Status.VERIFIED}
        for stage, verdicts in found.items()
    }
    assert proved["lp"] < proved["mip"]
    assert proved["mip"] == proved["gm-protocol"]
    assert {v.stage for v in found["lp"] if v.index in proved["lp"]} == {"lp"}
    open_ = [v for v in found["lp"] if v.status is Status.UNKNOWN]
    assert all(v.reason == "stages exhausted" for v in open_)


@pytest.mark.parametrize("status", ["memory", "failed", "raise"])
def test_a_solver_that_fails_proves_nothing(
    gap: tuple[Question, float], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    asked, linear = gap
    monkeypatch.setattr(decide, "solver_named", lambda name: Unfinished(-math.inf, status))
    (answer,) = MIP().decide(asked)
    assert answer.bound <= linear + 1e-9
    assert answer.reason == {"failed": "undecided"}.get(status, "memory")
    crown = backward.margins(*known(asked.module, asked.box), asked.y)
    assert answer.bound >= crown.min()


def test_what_is_proved_already_stays() -> None:
    model, x, y = hard()
    asked = question(model, x, y, 0.4)
    proved = torch.full((1, 3), 0.25).scatter(1, y[:, None], math.inf)
    (answer,) = MIP().decide(replace(asked, proved=proved))
    assert (answer.bound, answer.reason, answer.point) == (0.25, "", None)


def test_nan_proves_nothing() -> None:
    for layer in (0, -1):
        model, _, shape = dense_case("relu", 0)
        model[layer].weight.data[0, 0] = math.nan
        y = torch.tensor([1])
        asked = question(dense_case("relu", 0).model, torch.rand(1, *shape).double(), y, 0.1)
        net = trace(model, shape).instance()
        (answer,) = MIP().decide(replace(asked, module=model, net=net))
        assert (answer.reason, answer.point) == ("nan", None)
        assert not answer.bound > 0


@pytest.mark.parametrize("integers", [False, True])
def test_tightened_bounds_hold_and_are_never_wider(integers: bool) -> None:
    better = 0
    for seed in range(3):
        model, layers, shape = dense_case("relu", seed, (4, 6, 6, 5, 3))
        box = boxed(shape, seed)
        net = trace(model, shape).instance().detached()
        before = propagate(net, box)
        after = tightened(before, HiGHS(), math.inf, integers=integers)
        values = [inside(box, 2000)]
        for node in net.nodes[1:]:
            values.append(node.operator.forward(*(values[i] for i in node.inputs)))
        for index in net.bent():
            old, new = before.at(index), after.at(index)
            assert bool((new.lower >= old.lower - 1e-12).all())
            assert bool((new.upper <= old.upper + 1e-12).all())
            assert bool((values[index] >= new.lower - 1e-9).all())
            assert bool((values[index] <= new.upper + 1e-9).all())
            better += int((new.lower > old.lower + 1e-6).sum())
        found = HiGHS().solve(Encoding(net, after).minimising(ROW))
        assert found.value == pytest.approx(minimum_by_milp(layers, ROW.numpy(), box), abs=1e-6)
    assert better > 5


@pytest.mark.parametrize("tighten", ["lp", "mip"])
def test_tightening_changes_no_verdict(gap: tuple[Question, float], tighten: str) -> None:
    (answer,) = MIP(tighten=tighten).decide(gap[0])
    assert answer.bound > 0
    (linear,) = MIP(tighten=tighten, relax=True).decide(gap[0])
    assert linear.bound >= gap[1] - 1e-6


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        {"solver": "abacus"},
        {"tighten": "crown"},
        {"protocol": "hope"},
        {"share": 0.0},
        {"relax": True, "protocol": "gm-protocol"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MIP(**wrong)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("highs", "highspy"), ("scip", "pyscipopt"), ("gurobi", "gurobipy")):
        with pytest.raises(ConfigError, match=f"pip install {package}"):
            MIP(solver=name)
