"""Programs as matrices, how they are put together, and what is believed of a solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mip_reference import RELU, Layer, dense, dense_case, known, minimum_by_milp
from scipy.optimize import linprog
from test_mip import CLOSE, ROW, boxed, by_scipy
from torch import Tensor, nn

from taut.verify.mip import Encoding, HiGHS
from taut.verify.mip.draft import Draft, Sparse, Terms
from taut.verify.mip.solve import allowance, concluded


def test_any_multipliers_prove_a_bound() -> None:
    model, _, shape = dense_case("ramp", 2)
    program = Encoding(*known(model, boxed(shape, 2))).minimising(ROW).relaxed()
    least = by_scipy(program, program.cost) + program.offset
    generator = np.random.default_rng(0)
    height = len(program.row_lower)
    for scale in (0.0, 1e-3, 0.1, 10.0):
        for _ in range(20):
            assert program.dual_bound(scale * generator.normal(size=height)) <= least
    assert program.dual_bound(np.full(height, np.nan)) <= least
    dense = np.zeros((height, len(program.cost)))
    dense[program.row_of_entries(), program.columns] = program.entries
    up, low = np.isfinite(program.row_upper), np.isfinite(program.row_lower)
    found = linprog(
        program.cost,
        np.concatenate([dense[up], -dense[low]]),
        np.concatenate([program.row_upper[up], -program.row_lower[low]]),
        bounds=np.stack([program.lower, program.upper], 1),
    )
    duals = np.zeros(height)
    duals[up] += found.ineqlin.marginals[: up.sum()]
    duals[low] -= found.ineqlin.marginals[up.sum() :]
    assert least - 1e-9 < program.dual_bound(duals) <= least


def test_what_is_dropped_for_being_small_loses_no_point() -> None:
    draft = Draft()
    x = draft.variables(np.array([-1e6, 0.0]), np.array([2e6, 1.0]))
    tiny, one = np.array([1e-12]), np.ones(1)
    draft.rows([(x[:1], tiny), (x[1:], one)], 0.5 * one, 0.5 * one)
    program = draft.program(np.array([0.0, 1.0]), 0.25)
    assert program.entries.tolist() == [1.0]
    generator = np.random.default_rng(1)
    for first in [-1e6, 2e6, *generator.uniform(-1e6, 2e6, 50)]:
        assert program.violation(np.array([first, 0.5 - 1e-12 * first])) < 1e-15
    assert program.violation(np.array([0.0, 0.51])) > 9e-3
    assert program.value(np.array([0.0, 0.5])) == 0.75


def test_entries_of_one_variable_are_added_up() -> None:
    row, index = np.array([0, 1, 0, 0]), np.array([2, 1, 2, 0])
    found = Sparse.gathered(row, index, np.array([1.0, 2.0, 3.0, 0.0]), np.zeros(2))
    entries = zip(found.row.tolist(), found.index.tolist(), found.entry.tolist(), strict=True)
    assert set(entries) == {(0, 2, 4.0), (1, 1, 2.0)}


def test_values_of_several_variables_are_defined_by_a_row() -> None:
    draft = Draft()
    x, one = draft.variables(np.zeros(4), np.ones(4)), np.ones(2)
    scale = np.array([2.0, 0.0])
    terms = [(x[:2], one), (x[2:], scale)]
    found = draft.combined(np.array([0.5, 0.25]), terms, 0 * one, 9 * one)
    program = draft.program(np.zeros(draft.count), 0.0)
    assert draft.count == 5
    assert found.index.tolist() == [4, 1]
    point = np.array([0.5, 0.75, 0.125, 1.0, 0.5 + 0.5 + 2 * 0.125])
    assert program.violation(point) == 0.0
    assert found.at(point).tolist() == [1.25, 1.0]
    assert found.mapped(np.array([0.0, 2.0]), one).at(point).tolist() == [1.0, 3.0]
    assert Terms.constant(one).at(np.zeros(0)).tolist() == [1.0, 1.0]


def test_violations_are_those_of_rows_bounds_and_integers() -> None:
    draft = Draft()
    x, whole = draft.variables(np.zeros(1), np.ones(1)), draft.choices((1,))
    one = np.ones(1)
    draft.rows([(x, one), (whole, one)], 0.5 * one, np.inf * one)
    program = draft.program(np.zeros(2), 0.0)
    for point, gap in (((0.0, 0.0), 0.5), ((1.25, 1.0), 0.25), ((0.9, 0.3), 0.3), ((0.2, 1), 0)):
        assert program.violation(np.array(point)) == pytest.approx(gap, abs=1e-12)
    assert program.relaxed().violation(np.array([0.9, 0.3])) == 0


def test_a_solver_that_contradicts_itself_is_not_believed() -> None:
    model, _, shape = dense_case("relu", 0)
    program = Encoding(*known(model, boxed(shape, 0))).minimising(ROW)
    point, slack = np.zeros(len(program.cost)), allowance(program)
    assert slack > 1e-6
    sane = concluded(program, "timeout", 1.0, 2.0, point, 3)
    assert (sane.status, sane.value, sane.nodes) == ("timeout", 2.0, 3)
    assert sane.bound == pytest.approx(1.0 - slack, abs=1e-12)
    wrong = concluded(program, "optimal", 2.1, 2.0, point, 3)
    assert (wrong.status, wrong.bound, wrong.point) == ("failed", -math.inf, None)
    for unknown in (math.inf, math.nan, -math.inf):
        assert concluded(program, "timeout", unknown, math.inf, None, 3).bound == -math.inf


def test_an_infeasible_program_proves_nothing() -> None:
    draft = Draft()
    x, one = draft.choices((1,)), np.ones(1)
    draft.rows([(x, one)], 2 * one, 3 * one)
    program = draft.program(np.ones(1), 0.0)
    for each in (program, program.relaxed()):
        found = HiGHS().solve(each)
        assert (found.status, found.bound, found.point) == ("failed", -math.inf, None)


class Shared(nn.Module):
    """Two activations that read one layer, the first of which a linear layer reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.relu(h) - 2 * h.clamp(-0.2, 0.3) + 0.5 * h)


@pytest.mark.parametrize("seed", range(4))
def test_activations_of_one_layer_share_its_variables(seed: int) -> None:
    torch.manual_seed(seed)
    model = Shared().double().eval()
    bends = [RELU] * 5 + [(0.0, -0.2, 0.3)] * 5 + [(1.0, -math.inf, math.inf)] * 5
    layers = [
        Layer(*dense(lambda x: model.first(x).repeat(1, 3), (4,)), bends),
        Layer(
            *dense(lambda v: model.last(v[:, :5] - 2 * v[:, 5:10] + 0.5 * v[:, 10:]), (15,)),
            bends[-3:],
        ),
    ]
    box = boxed((4,), seed)
    found = HiGHS().solve(Encoding(*known(model, box)).minimising(ROW))
    assert found.value == pytest.approx(minimum_by_milp(layers, ROW.numpy(), box), abs=CLOSE)
