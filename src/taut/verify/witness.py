"""Counterexamples to a property: points of exact numbers that every way of computing repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from taut.attacks import evaluating
from taut.property.case import Case
from taut.verify.replay import outputs_in

Evaluator = Callable[[Tensor], Tensor]
"""Another way to compute the network: inputs ``(1, *shape)`` to outputs of any shape."""


@dataclass(frozen=True)
class Witness:
    """A counterexample that was replayed.

    Attributes
    ----------
    point
        The inputs, exact decimals within the exact box. Each is the shortest decimal of a
        number the search found, or an end of the box where that decimal lies beyond it.
    outputs
        What the last of the replays computed there: ONNX Runtime's where it took part, else
        the module's in float32.

    """

    point: tuple[Fraction, ...]
    outputs: tuple[float, ...]


def witnessed(
    model: nn.Module,
    case: Case,
    point: Tensor,
    evaluators: Sequence[Evaluator] = (),
) -> Witness | None:
    """Replay a candidate ``(*shape)``; None where it is no counterexample beyond doubt.

    The exact point lies in the exact box. Rounded to the nearest numbers of either type it goes
    through the module itself in float64 and in float32 and through every evaluator (in the
    module's own type), and each time the outputs, taken as the exact numbers they are, have to
    lie in one of the case's groups, without tolerance.
    """
    exact = case.exact.nearest(point.detach().flatten().tolist())
    if not case.exact.inside(exact):
        return None
    weight = next(model.parameters(), torch.zeros(0))
    double = torch.tensor([float(x) for x in exact], dtype=torch.float64, device=weight.device)
    inputs = double.view(1, *point.shape)
    found: tuple[float, ...] = ()
    with evaluating(model), torch.no_grad():
        for dtype in (torch.float64, torch.float32):
            found = _numbers(outputs_in(model, inputs, dtype))
            if not case.exact.unsafe(found):
                return None
    for evaluator in evaluators:
        found = _numbers(evaluator(inputs.to("cpu", weight.dtype)))
        if not case.exact.unsafe(found):
            return None
    return Witness(exact, found)


def _numbers(outputs: Tensor) -> tuple[float, ...]:
    return tuple(outputs.detach().flatten().double().tolist())
