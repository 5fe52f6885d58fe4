"""Products with constant matrices on either side."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.operators.affine import Linear
from taut.operators.base import Shape
from taut.operators.combine import Call, Combine
from taut.operators.registry import Inner, Live, Template, Value, builds

_SWAP = Call(torch.transpose, (-1, -2))


@builds(operator.matmul, torch.matmul, torch.mm, "matmul", "mm", "__matmul__")
def _matmul(shape: Shape, module: None, input: Value | Live, other: Value | Live) -> Template:
    if isinstance(input, Value) and isinstance(other, Value):
        raise UnsupportedOperator("of two tensors that both depend on the input")
    if isinstance(input, Value):
        assert not isinstance(other, Value)
        return _times(shape, input, other)
    assert isinstance(other, Value)
    return _left(shape, input, other)


def _times(shape: Shape, x: Value, matrix: Live) -> Template:
    """Return ``x @ matrix``, a linear layer over the last axis."""
    if matrix().dim() == 1:
        inner = Inner(_linear(x, lambda: matrix()[None]), (*x.shape[:-1], 1))
        return Template((inner,), lambda: Combine(Call(torch.squeeze, (-1,))))
    _check_matrix(matrix)
    return _linear(x, lambda: matrix().T)


def _left(shape: Shape, matrix: Live, x: Value) -> Template:
    """Return ``matrix @ x``, a linear layer over the last axis but one."""
    _check_matrix(matrix)
    if len(x.shape) < 2:
        raise UnsupportedOperator("of a constant with the batch axis of the input")
    swapped = (*x.shape[:-2], x.shape[-1], x.shape[-2])
    inner = Inner(Template((x,), lambda: Combine(_SWAP)), swapped)
    found = Inner(_linear(inner, matrix), (*shape[:-2], shape[-1], shape[-2]))
    return Template((found,), lambda: Combine(_SWAP))


def _linear(
    x: Value | Inner, weight: Live, bias: Callable[[], Tensor | None] = lambda: None
) -> Template:
    return Template((x,), lambda: Linear(weight(), bias()), folds=len(x.shape) == 1)


def _check_matrix(matrix: Live) -> None:
    sizes = tuple(matrix().shape)
    if len(sizes) != 2:
        raise UnsupportedOperator(f"with a constant of shape {sizes}; it must be one matrix")


@builds(torch.addmm, "addmm")
def _addmm(
    shape: Shape,
    module: None,
    input: Value | Live,
    mat1: Value | Live,
    mat2: Value | Live,
    beta: float = 1.0,
    alpha: float = 1.0,
) -> Template:
    if isinstance(input, Value) or not isinstance(mat1, Value) or isinstance(mat2, Value):
        raise UnsupportedOperator("unless the second argument alone depends on the input")
    _check_matrix(mat2)
    sizes = input().shape
    if len(sizes) > 1 and sizes[0] != 1:
        raise UnsupportedOperator(f"with a bias of shape {tuple(sizes)}; it must be one vector")
    return _linear(
        mat1,
        lambda: alpha * mat2().T,
        lambda: (beta * input()).reshape(-1).expand(shape[0]),
    )
