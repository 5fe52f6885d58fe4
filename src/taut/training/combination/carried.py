"""A loss whose gradient is already known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _Carried(Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [by_value.to(gradient) * gradient for gradient in ctx.gradients]
        return None, None, *scaled


def carried(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return ``value`` as a scalar whose gradient is the one given.

    Parameters
    ----------
    value
        A detached scalar.
    parameters, gradients
        Leaves, and for each the gradient it gets, of its shape. No pass through any network is
        made; hooks on the parameters see these gradients like any other.

    """
    total: Tensor = _Carried.apply(value, tuple(gradients), *parameters)  # type: ignore[no-untyped-call]
    return total
