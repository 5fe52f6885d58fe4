"""Rules of element-wise operators: activations and arithmetic with constants and branches."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.formats.onnx.call import Call, Operand, axis_of, rule
from taut.formats.onnx.read import Array
from taut.formats.onnx.value import Builder, Value


def _layer(make: Callable[..., nn.Module], **attributes: tuple[str, float]) -> Callable[..., Value]:
    """Return the rule of a layer; ``attributes`` are its arguments: ONNX name and default."""

    def build(call: Call) -> Value:
        x = call.value()
        options = {k: float(call.attribute(*v)) for k, v in attributes.items()}
        return call.builder.module(make(**options), x, x.axis)

    return build


def _function(target: Callable[[Tensor], Tensor]) -> Callable[[Call], Value]:
    def build(call: Call) -> Value:
        x = call.value()
        return call.builder.function(target, x, axis=x.axis)

    return build


rule("Relu")(_layer(nn.ReLU))
rule("Sigmoid")(_layer(nn.Sigmoid))
rule("Tanh")(_layer(nn.Tanh))
rule("Softplus")(_layer(nn.Softplus))
rule("Softsign")(_layer(nn.Softsign))
rule("Mish")(_layer(nn.Mish))
rule("HardSwish")(_layer(nn.Hardswish))
rule("LeakyRelu")(_layer(nn.LeakyReLU, negative_slope=("alpha", 0.01)))
rule("Elu")(_layer(nn.ELU, alpha=("alpha", 1.0)))
rule("Exp")(_function(torch.exp))
rule("Log")(_function(torch.log))
rule("Sqrt")(_function(torch.sqrt))
rule("Abs")(_function(torch.abs))
rule("Neg")(_function(torch.neg))
rule("Sign")(_function(torch.sign))
rule("Erf")(_function(torch.erf))
rule("Sin")(_function(torch.sin))
rule("Cos")(_function(torch.cos))
rule("Reciprocal")(_function(torch.reciprocal))


@rule("Identity")
def _identity(call: Call) -> Value:
    return call.value()


@rule("Dropout")
def _dropout(call: Call) -> Value:
    call.attribute("ratio")
    call.attribute("seed")
    training = call.optional(2)
    if training is not None and training.any():
        raise UnsupportedOperator("in training mode")
    return call.value()


@rule("Cast")
def _cast(call: Call) -> Value:
    from onnx import helper

    call.attribute("saturate")
    call.attribute("round_mode")
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(call.attribute("to")))
    if torch.from_numpy(np.empty(0, wanted)).dtype != call.builder.dtype:
        raise UnsupportedOperator(f"to {wanted.name} of a tensor of {call.builder.dtype}")
    return call.value()


@rule("Gelu")
def _gelu(call: Call) -> Value:
    x = call.value()
    return call.builder.module(nn.GELU(call.attribute("approximate", "none")), x, x.axis)


@rule("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if not np.isclose(alpha, 1 / 6) or beta != 0.5:
        raise UnsupportedOperator(f"with alpha={alpha:g} and beta={beta:g}, not 1/6 and 1/2,")
    x = call.value()
    return call.builder.module(nn.Hardsigmoid(), x, x.axis)


@rule("PRelu")
def _prelu(call: Call) -> Value:
    x = call.value()
    slope = constant_for(x, call.array(1))
    channels = x.rest[0] if x.rest else 1
    if slope.size != 1 and (len(slope.shape) != len(x.rest) or slope.size != slope.shape[0]):
        raise UnsupportedOperator(f"with slopes of shape {slope.shape} for {x.rest}")
    if slope.size not in (1, channels):
        raise UnsupportedOperator(f"with {slope.size} slopes for {channels} channels")
    layer = nn.utils.skip_init(nn.PReLU, slope.size, dtype=call.builder.dtype)
    layer.weight.data.copy_(call.tensor(slope.reshape(-1)))
    return call.builder.module(layer, x, x.axis)


@rule("Clip")
def _clip(call: Call) -> Value:
    low, high = _bound(call, "min", 1, -np.inf), _bound(call, "max", 2, np.inf)
    return _clamp(call.builder, call.value(), low, high)


def _bound(call: Call, name: str, index: int, default: float) -> float:
    given = call.attribute(name)
    array = call.optional(index)
    found = (
        float(array.reshape(()))
        if array is not None
        else default
        if given is None
        else float(given)
    )
    return default if abs(found) >= float(np.finfo(np.float32).max) else found


def _clamp(builder: Builder, x: Value, low: float, high: float) -> Value:
    if low == -np.inf and high == np.inf:
        return x
    if (low, high) == (0.0, np.inf):
        return builder.module(nn.ReLU(), x, x.axis)
    if (low, high) == (0.0, 6.0):
        return builder.module(nn.ReLU6(), x, x.axis)
    if -np.inf < low < high < np.inf:
        return builder.module(nn.Hardtanh(low, high), x, x.axis)
    ends = {"min": low, "max": high}
    ends = {name: end for name, end in ends.items() if np.isfinite(end)}
    return builder.function(torch.clamp, x, axis=x.axis, **ends)


@rule("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Value:
    x = call.value()
    rank = len(x.shape)
    axis = axis_of(call.attribute("axis", -1 if call.opset >= 13 else 1), rank)
    # Before opset 13 all axes from this one on were taken together.
    taken = [axis] if call.opset >= 13 else list(range(axis, rank))
    wide = [a for a in taken if x.shape[a] != 1]
    if len(wide) != 1:
        raise UnsupportedOperator(f"over the axes {taken} of a tensor of shape {x.shape}")
    kind = nn.Softmax if call.node.op_type == "Softmax" else nn.LogSoftmax
    return call.builder.module(kind(dim=x.dim(wide[0])), x, x.axis)


def constant_for(x: Value, array: Array) -> Array:
    """Return a constant that broadcasts against ``x`` as one that does against ``x.rest``.

    Axes of size 1 in front, which say nothing, are left out.
    """
    rank = len(x.shape)
    if x.axis is not None and array.ndim >= rank - x.axis:
        where = array.ndim - rank + x.axis
        assert array.shape[where] == 1
        array = array.reshape(array.shape[:where] + array.shape[where + 1 :])
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def _fits(x: Value, array: Array) -> bool:
    """Whether the constant has one entry along the batch axis of ``x``."""
    if x.axis is None or array.ndim < len(x.shape) - x.axis:
        return True
    return bool(array.shape[array.ndim - len(x.shape) + x.axis] == 1)


Binary = Callable[[Any, Any], Any]


def _with_constant(
    call: Call, target: Binary, x: Value, array: Array, constant_first: bool
) -> Value:
    builder = call.builder
    x = builder.padded(x, array.ndim)
    if not _fits(x, array):
        x = builder.without_batch(x)
    array = constant_for(x, array)
    tensor = call.tensor(array)
    scalar = array.size == 1 and target not in (torch.maximum, torch.minimum)
    other = float(tensor) if scalar else builder.constant(tensor)
    arguments = (other, x) if constant_first else (x, other)
    return builder.function(target, *arguments, axis=x.axis)


def _of_two(call: Call, target: Binary, a: Value, b: Value) -> Value:
    builder = call.builder
    rank = max(len(a.shape), len(b.shape))
    a, b = builder.padded(a, rank), builder.padded(b, rank)
    if a.axis != b.axis:
        a, b = _same_batch(builder, a, b)
    return builder.function(target, a, b, axis=a.axis)


def _same_batch(builder: Builder, a: Value, b: Value) -> tuple[Value, Value]:
    """Bring the batch of two tensors to one place."""
    for axis in (a.axis, b.axis):
        if axis is not None and a.shape[axis] == b.shape[axis] == 1:
            return builder.batch_at(a, axis), builder.batch_at(b, axis)
    return builder.without_batch(a), builder.without_batch(b)


def _binary(target: Binary) -> Callable[[Call], Value]:
    def build(call: Call) -> Value:
        if len(call.inputs) != 2:
            raise UnsupportedOperator(f"of {len(call.inputs)} tensors, not two,")
        return _join(call, target, call.inputs[0], call.inputs[1])

    return build


def _join(call: Call, target: Binary, a: Operand | None, b: Operand | None) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        return _of_two(call, target, a, b)
    if isinstance(a, Value) and b is not None:
        return _with_constant(call, target, a, _array(b), False)
    assert isinstance(b, Value)
    assert a is not None
    return _with_constant(call, target, b, _array(a), True)


def _array(operand: Operand) -> Array:
    assert isinstance(operand, np.ndarray)
    return operand


rule("Add")(_binary(operator.add))
rule("Sub")(_binary(operator.sub))
rule("Mul")(_binary(operator.mul))
rule("Div")(_binary(operator.truediv))


@rule("Pow")
def _pow(call: Call) -> Value:
    exponent = call.array(1)
    if exponent.size != 1:
        raise UnsupportedOperator("with exponents that differ from element to element")
    x = call.builder.padded(call.value(), exponent.ndim)
    power = float(exponent.reshape(()))
    return call.builder.function(
        torch.pow, x, int(power) if power.is_integer() else power, axis=x.axis
    )


def _chain(target: Binary, call: Call) -> Value:
    first, *others = call.inputs
    for other in others:
        first = _join(call, target, first, other)
    assert isinstance(first, Value)
    return first


rule("Sum")(partial(_chain, operator.add))


@rule("Max", "Min")
def _extreme(call: Call) -> Value:
    largest = call.node.op_type == "Max"
    dynamic = [x for x in call.inputs if isinstance(x, Value)]
    arrays = [x for x in call.inputs if isinstance(x, np.ndarray)]
    if len(dynamic) == len(arrays) == 1 and arrays[0].size == 1:
        end = float(call.tensor(arrays[0].reshape(())))
        x = call.builder.padded(dynamic[0], arrays[0].ndim)
        return _clamp(call.builder, x, end if largest else -np.inf, np.inf if largest else end)
    return _chain(torch.maximum if largest else torch.minimum, call)
