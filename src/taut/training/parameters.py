"""Which parameters of a model are no weights."""

from __future__ import annotations

from torch import nn


def no_weights(model: nn.Module) -> set[int]:
    """Return the ``id`` of every parameter that shapes a function and weighs nothing.

    Modules name them in ``no_weights``: the range r of a
    :class:`~taut.operators.ramp.ParamRamp`, the thresholds of ``taut.models.Cells``. Weight decay
    and the l_1 norm, which pull to zero, leave them alone.
    """
    return {
        id(getattr(module, name))
        for module in model.modules()
        for name in getattr(module, "no_weights", ())
    }
