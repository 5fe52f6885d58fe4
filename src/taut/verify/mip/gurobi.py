"""Gurobi behind the interface of solvers (package ``gurobipy`` and a licence)."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from taut.errors import ConfigError, first_line
from taut.verify.mip.program import Program
from taut.verify.mip.solve import (
    FEASIBILITY,
    Solution,
    Status,
    allowance,
    concluded,
    settled,
)

_STATUS: dict[int, Status] = {2: "optimal", 15: "stopped", 9: "timeout", 17: "memory"}
_FINITE = 1e100


@dataclass(frozen=True)
class Gurobi:
    """Gurobi, a commercial solver.

    Raises
    ------
    ConfigError
        There is no licence, or it does not cover a program of this size.
    """

    def solve(
        self,
        program: Program,
        time_limit: float = math.inf,
        stop_above: float = math.inf,
        stop_below: float = -math.inf,
    ) -> Solution:
        """Minimise a program, see :meth:`taut.verify.mip.solve.Solver.solve`."""
        if (known := settled(program)) is not None:
            return known
        gurobi = importlib.import_module("gurobipy")
        try:
            parameters = _parameters(program, time_limit)
            with gurobi.Env(params=parameters) as env, gurobi.Model(env=env) as model:
                return _solved(gurobi, model, program, stop_above, stop_below)
        except gurobi.GurobiError as error:
            if error.errno == gurobi.GRB.Error.OUT_OF_MEMORY:
                return Solution("memory")
            raise ConfigError(
                f"Gurobi refused ({first_line(error)}); check its licence or choose the solver "
                "'highs'"
            ) from error


def _parameters(program: Program, time_limit: float) -> dict[str, float]:
    found: dict[str, float] = {"OutputFlag": 0, "Threads": 1, "Seed": 0}
    found |= {"FeasibilityTol": FEASIBILITY, "OptimalityTol": FEASIBILITY}
    found |= {"IntFeasTol": FEASIBILITY, "MIPGap": 0.0, "MIPGapAbs": FEASIBILITY}
    if math.isfinite(time_limit):
        found["TimeLimit"] = max(0.0, time_limit)
    return found


def _solved(
    gurobi: Any, model: Any, program: Program, stop_above: float, stop_below: float
) -> Solution:
    if not program.is_linear:
        if math.isfinite(stop_above):
            model.Params.BestBdStop = stop_above + allowance(program)
        if math.isfinite(stop_below):
            model.Params.BestObjStop = stop_below
    variables = [
        model.addVar(lb=low, ub=up, obj=cost, vtype="I" if whole else "C")
        for low, up, cost, whole in program.variables()
    ]
    model.ObjCon = program.offset
    for low, up, columns, entries in program.constraints():
        form = gurobi.LinExpr(entries, [variables[j] for j in columns])
        if low == up:
            model.addLConstr(form, "=", low)
            continue
        if math.isfinite(low):
            model.addLConstr(form, ">", low)
        if math.isfinite(up):
            model.addLConstr(form, "<", up)
    model.optimize()
    status = _STATUS.get(model.Status, "failed")
    if status == "failed":
        return Solution("failed")
    point = np.array([v.X for v in variables]) if model.SolCount > 0 else None
    value = math.inf if point is None else program.value(point)
    if program.is_linear:
        bound = value if status == "optimal" else -math.inf
    else:
        bound = float(model.ObjBound)
    bound = bound if abs(bound) < _FINITE else -math.inf
    return concluded(program, status, bound, value, point, max(1, int(model.NodeCount)))
