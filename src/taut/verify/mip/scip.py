"""SCIP behind the interface of solvers (package ``pyscipopt``)."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from taut.verify.mip.program import Program
from taut.verify.mip.solve import (
    FEASIBILITY,
    Solution,
    Status,
    allowance,
    concluded,
    settled,
)

_STATUS: dict[str, Status] = {
    "optimal": "optimal",
    "userinterrupt": "stopped",
    "timelimit": "timeout",
    "memlimit": "memory",
}

_LONGEST = 1e20


@dataclass(frozen=True)
class SCIP:
    """SCIP, an open solver."""

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
        scip = importlib.import_module("pyscipopt")
        model, variables = _model(scip, program)
        model.setParam("limits/time", min(_LONGEST, max(0.0, time_limit)))
        level = stop_above + allowance(program)
        _stop_at_sign(scip, model, level, stop_below)
        model.optimize()
        status = _STATUS.get(model.getStatus(), "failed")
        if status == "failed":
            return Solution("failed")
        point = None
        if model.getNSols() > 0:
            best = model.getBestSol()
            point = np.array([model.getSolVal(best, v) for v in variables], dtype=np.float64)
        value = math.inf if point is None else program.value(point)
        bound = float(model.getDualbound())
        bound = -math.inf if abs(bound) >= _LONGEST else bound
        return concluded(program, status, bound, value, point, int(model.getNTotalNodes()))


def _model(scip: Any, program: Program) -> tuple[Any, list[Any]]:
    model = scip.Model()
    model.hideOutput()
    for name, value in (
        ("numerics/feastol", FEASIBILITY),
        ("numerics/dualfeastol", FEASIBILITY),
        ("randomization/randomseedshift", 0),
        ("lp/threads", 1),
    ):
        model.setParam(name, value)
    variables = [
        model.addVar(lb=low, ub=up, obj=cost, vtype="I" if whole else "C")
        for low, up, cost, whole in program.variables()
    ]
    model.addObjoffset(program.offset)
    for low, up, columns, entries in program.constraints():
        form = scip.quicksum(a * variables[j] for j, a in zip(columns, entries, strict=True))
        if low == up:
            model.addCons(form == low)
            continue
        if math.isfinite(low):
            model.addCons(form >= low)
        if math.isfinite(up):
            model.addCons(form <= up)
    return model, variables


def _stop_at_sign(scip: Any, model: Any, above: float, below: float) -> None:
    """Interrupt the search when its bound or its best point has passed a level."""
    events = scip.SCIP_EVENTTYPE.BESTSOLFOUND, scip.SCIP_EVENTTYPE.NODESOLVED

    class Watch(scip.Eventhdlr):  # type: ignore[misc]
        def eventinit(self) -> None:
            for event in events:
                self.model.catchEvent(event, self)

        def eventexit(self) -> None:
            for event in events:
                self.model.dropEvent(event, self)

        def eventexec(self, event: Any) -> None:
            if self.model.getDualbound() > above or self.model.getPrimalbound() < below:
                self.model.interruptSolve()

    model.includeEventhdlr(Watch(), "sign", "stops when the sign of the minimum is known")
