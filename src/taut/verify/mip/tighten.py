"""Bounds of single neurons by programs over the layers before them."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from taut.bounds import Intermediate
from taut.bounds.refine import Bounder, improve
from taut.operators.forms import Bounds
from taut.verify.mip.encode import Encoding
from taut.verify.mip.solve import Solver

_EACH = 1.0
"""Seconds that a program with integers may take for one end of one neuron."""


def tightened(
    known: Intermediate, solver: Solver, deadline: float, *, integers: bool
) -> Intermediate:
    """Bound the bending neurons again, layer by layer, each end by a program of its own.

    What a program proves counts where it is better, and intervals behind are propagated anew.
    Neurons whose turn comes after the deadline keep their bounds. An end that has become stable
    is not pursued further.

    Parameters
    ----------
    known
        Bounds of one image, in float64.
    solver
        Minimises.
    deadline
        On the clock of ``time.perf_counter``.
    integers
        Whether the programs have integers, or are linear.
    """
    if time.perf_counter() >= deadline:
        return known
    return improve(known, [_bounder(solver, deadline, integers)])


def _bounder(solver: Solver, deadline: float, integers: bool) -> Bounder:
    def bound(known: Intermediate, source: int, pairs: Tensor) -> Bounds:
        free = torch.full((len(pairs),), math.inf, dtype=torch.float64)
        lower, upper = -free, free
        if time.perf_counter() >= deadline:
            return Bounds(lower, upper)
        encoding = Encoding(known.net, known, source)
        shape = known.net.nodes[source].shape
        for place, element in enumerate(pairs[:, 1].tolist()):
            row = torch.zeros(math.prod(shape), dtype=torch.float64)
            row[element] = 1.0
            for sign, ends in ((1.0, lower), (-1.0, upper)):
                left = deadline - time.perf_counter()
                if left <= 0:
                    return Bounds(lower, upper)
                program = encoding.minimising(sign * row.view(shape))
                if not integers:
                    program = program.relaxed()
                limit = min(left, _EACH) if integers else left
                ends[place] = sign * solver.solve(program, limit, stop_above=0.0).bound
        crossed = lower > upper  # by rounding, where the neuron does not move
        return Bounds(lower.where(~crossed, -math.inf), upper.where(~crossed, math.inf))

    return bound
