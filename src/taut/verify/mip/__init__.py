"""Verification by mixed-integer and linear programs."""

from taut.verify.mip.decide import MIP
from taut.verify.mip.encode import Encoding
from taut.verify.mip.program import Program
from taut.verify.mip.solve import SOLVERS, HiGHS, Solution, Solver, solver_named

__all__ = [
    "MIP",
    "SOLVERS",
    "Encoding",
    "HiGHS",
    "Program",
    "Solution",
    "Solver",
    "solver_named",
]
