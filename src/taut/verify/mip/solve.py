"""Solvers of programs behind one interface; HiGHS is the one that is always there."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from taut.errors import ConfigError
from taut.verify.mip.program import Floats, Program

FEASIBILITY = 1e-9
"""By how much solvers may break rows, bounds and reduced costs."""

TOLERANCE = 1e-6
r"""Share of the objective's scale that is taken off a solver's own bound.

Rows that are broken by an amount only let more points in, which lowers a minimum: what is found
for them stays a bound. What a solver cuts off (nodes it holds for infeasible, reduced costs of
the wrong sign, presolving) is right up to its tolerances, so its bound counts with
:math:`10^{-6}\,(1 + |d| + \sum_i |c_i| \max(|l_i|, |u_i|))` taken off. That is a thousand times
the tolerance asked for, and an allowance, not a proof. Linear programs need none: their bound is
computed from the multipliers themselves, see :meth:`~taut.verify.mip.program.Program.dual_bound`.
"""

Status = Literal["optimal", "stopped", "timeout", "memory", "failed"]


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver found out about the minimum of a program.

    Attributes
    ----------
    status
        ``optimal``; ``stopped``, since the bound or the value passed the level it was to stop at;
        ``timeout``; ``memory``; or ``failed``: infeasible, unbounded or any other answer, of
        which nothing is used.
    bound
        The minimum is at least this, the solver's tolerances taken off; -inf where unknown.
    value
        Of the best point; inf without one.
    point
        The best point ``(n,)``, feasible within the solver's tolerances; None without one.
    nodes
        Linear programs of the search tree.
    """

    status: Status
    bound: float = -math.inf
    value: float = math.inf
    point: Floats | None = None
    nodes: int = 0


class Solver(Protocol):
    """Minimises programs, on one thread and without chance."""

    def solve(
        self,
        program: Program,
        time_limit: float = math.inf,
        stop_above: float = math.inf,
        stop_below: float = -math.inf,
    ) -> Solution:
        """Minimise a program.

        Parameters
        ----------
        program
            What to minimise.
        time_limit
            Seconds.
        stop_above
            Stop as soon as the minimum is known to be above.
        stop_below
            Stop as soon as a point with a value below is known.
        """
        ...


def allowance(program: Program) -> float:
    """Return what is taken off a solver's own bound, see :data:`TOLERANCE`."""
    return TOLERANCE * (1.0 + program.scale())


def concluded(
    program: Program, status: Status, bound: float, value: float, point: Floats | None, nodes: int
) -> Solution:
    """Return a solution from a solver's own figures; what contradicts itself is ``failed``."""
    slack = allowance(program)
    bound = bound if math.isfinite(bound) else -math.inf
    value = value if point is not None and math.isfinite(value) else math.inf
    if bound > value + slack:
        return Solution("failed", nodes=nodes)
    return Solution(status, bound - slack, value, None if value == math.inf else point, nodes)


def settled(program: Program) -> Solution | None:
    """Return the solution of what no solver is asked: no variables, or numbers not finite."""
    numbers = program.cost, program.entries, program.lower, program.upper
    ends = program.row_lower, program.row_upper
    if not all(np.isfinite(n).all() for n in numbers) or any(np.isnan(n).any() for n in ends):
        return Solution("failed")
    if len(program.cost) == 0:
        return Solution("optimal", program.offset, program.offset, np.zeros(0))
    return None


@dataclass(frozen=True)
class HiGHS:
    """HiGHS, an open solver (package ``highspy``)."""

    def solve(
        self,
        program: Program,
        time_limit: float = math.inf,
        stop_above: float = math.inf,
        stop_below: float = -math.inf,
    ) -> Solution:
        """Minimise a program, see :meth:`Solver.solve`."""
        if (known := settled(program)) is not None:
            return known
        import highspy

        solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        for name, value in _OPTIONS.items():
            solver.setOptionValue(name, value)
        solver.setOptionValue("time_limit", max(0.0, time_limit))
        if not _loaded(solver, program):
            return Solution("failed")
        if not program.is_linear:
            slack = allowance(program)

            def look(event: Any) -> None:
                found = event.data_out
                decided = found.mip_dual_bound - slack > stop_above
                if decided or found.mip_primal_bound < stop_below:
                    event.data_in.user_interrupt = True

            solver.cbMipInterrupt.subscribe(look)
            solver.setOptionValue("objective_target", stop_below)
        solver.run()
        return _linear(program, solver) if program.is_linear else _integer(program, solver)


_OPTIONS: dict[str, bool | int | float | str] = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "random_seed": 0,
    "primal_feasibility_tolerance": FEASIBILITY,
    "dual_feasibility_tolerance": FEASIBILITY,
    "mip_feasibility_tolerance": FEASIBILITY,
    "small_matrix_value": 1e-12,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": FEASIBILITY,
}


def _loaded(solver: Any, program: Program) -> bool:
    """Hand a program over; tell whether it was taken as it is."""
    rowwise, minimise = 2, 1
    status = solver.passModel(
        len(program.cost),
        len(program.row_lower),
        len(program.entries),
        rowwise,
        minimise,
        program.offset,
        program.cost,
        program.lower,
        program.upper,
        program.row_lower,
        program.row_upper,
        program.starts.astype(np.int32),
        program.columns.astype(np.int32),
        program.entries,
        program.integer.astype(np.int32),
    )
    return bool(status.name != "kError")


def _status(solver: Any) -> Status:
    known: dict[str, Status] = {
        "kOptimal": "optimal",
        "kInterrupt": "stopped",
        "kHighsInterrupt": "stopped",
        "kObjectiveTarget": "stopped",
        "kTimeLimit": "timeout",
        "kMemoryLimit": "memory",
    }
    return known.get(solver.getModelStatus().name, "failed")


def _linear(program: Program, solver: Any) -> Solution:
    """Return the solution of a linear program, its bound from the multipliers alone."""
    status, found = _status(solver), solver.getSolution()
    duals = np.array(found.row_dual, dtype=np.float64)
    if len(duals) != len(program.row_lower):
        duals = np.zeros(len(program.row_lower))
    bound = program.dual_bound(duals)
    feasible = solver.getInfo().primal_solution_status == 2
    point = np.array(found.col_value, dtype=np.float64) if feasible else None
    value = math.inf if point is None else program.value(point)
    if status == "failed" or not math.isfinite(bound):
        return Solution("failed")
    return Solution(status, bound, value, point, 1)


def _integer(program: Program, solver: Any) -> Solution:
    status, info = _status(solver), solver.getInfo()
    if status == "failed":
        return Solution("failed")
    feasible = info.primal_solution_status == 2
    point = np.array(solver.getSolution().col_value, dtype=np.float64) if feasible else None
    value = math.inf if point is None else program.value(point)
    nodes = max(1, int(info.mip_node_count))
    return concluded(program, status, float(info.mip_dual_bound), value, point, nodes)


def solver_named(name: str) -> Solver:
    """Return a solver by its name.

    Raises
    ------
    ConfigError
        An unknown name, or its package is not installed.
    """
    if name not in SOLVERS:
        raise ConfigError(f"unknown solver {name!r}; choose from {', '.join(SOLVERS)}")
    package, make = SOLVERS[name]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"the solver {name!r} needs the package {package}; install it with "
            f"'pip install {package}' or choose another solver"
        )
    return make()


def _scip() -> Solver:
    from taut.verify.mip.scip import SCIP

    return SCIP()


def _gurobi() -> Solver:
    from taut.verify.mip.gurobi import Gurobi

    return Gurobi()


SOLVERS: dict[str, tuple[str, Callable[[], Solver]]] = {
    "highs": ("highspy", HiGHS),
    "scip": ("pyscipopt", _scip),
    "gurobi": ("gurobipy", _gurobi),
}
"""Solvers by name: the package each needs, and how it is made."""
