"""Rules of operators that move elements about and compute nothing."""

from __future__ import annotations

import operator
from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from taut.errors import UnsupportedOperator
from taut.formats.onnx.call import Call, Operand, axis_of, rule
from taut.formats.onnx.read import Array
from taut.formats.onnx.value import Shape, Value, first_of_one, without


@rule("Shape")
def _shape(call: Call) -> Array:
    shape = call.value().shape
    start, end = call.attribute("start", 0), call.attribute("end")
    return np.array(shape[start:end], dtype=np.int64)


@rule("Size")
def _size(call: Call) -> Array:
    return np.array(prod(call.value().shape), dtype=np.int64)


def _reshaped(call: Call, x: Value, shape: Shape) -> Value:
    """Reshape; the batch stays where it was if it can, or goes to the first axis of size 1."""
    stays = x.axis is not None and x.axis < len(shape) and shape[x.axis] == 1
    axis = x.axis if stays else first_of_one(shape)
    if axis is None:
        x = call.builder.without_batch(x)
    return call.builder.reshape(x, shape, axis)


@rule("Reshape")
def _reshape(call: Call) -> Value:
    x = call.value()
    asked = [int(v) for v in call.array(1).reshape(-1)]
    if not call.attribute("allowzero", 0):
        asked = [x.shape[i] if size == 0 else size for i, size in enumerate(asked)]
    if 0 in asked:
        raise UnsupportedOperator(f"to an empty tensor of shape {asked}")
    known = prod(size for size in asked if size != -1)
    shape = tuple(prod(x.shape) // known if size == -1 else size for size in asked)
    return _reshaped(call, x, shape)


@rule("Flatten")
def _flatten(call: Call) -> Value:
    x = call.value()
    axis, rank = call.attribute("axis", 1), len(x.shape)
    axis = rank if axis == rank else axis_of(axis, rank)
    return _reshaped(call, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@rule("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.value()
    axes = call.axes(len(x.shape), 1)
    ones = [i for i, size in enumerate(x.shape) if size == 1]
    if call.builder.free:
        ones = [i for i in ones if i != x.axis]
    gone = ones if axes is None else axes
    if any(x.shape[axis] != 1 for axis in gone):
        raise UnsupportedOperator(f"of axes {gone} of a tensor of shape {x.shape}")
    return _without(call, x, gone)


def _without(call: Call, x: Value, gone: list[int]) -> Value:
    """Drop axes of size 1, the batch among them or not."""
    if x.axis in gone:
        call.builder.refuse_if_free()
        batch = None
    else:
        batch = x.axis_without(gone)
    shape = tuple(size for i, size in enumerate(x.shape) if i not in gone)
    return call.builder.reshape(x, shape, batch)


@rule("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.value()
    asked = call.numbers("axes", 1)
    if asked is None:
        raise UnsupportedOperator("without axes")
    rank = len(x.shape) + len(asked)
    new = {axis_of(axis, rank) for axis in asked}
    old = [axis for axis in range(rank) if axis not in new]
    shape = tuple(1 if i in new else x.shape[old.index(i)] for i in range(rank))
    batch = min(new) if x.axis is None else old[x.axis]
    return call.builder.reshape(x, shape, batch)


@rule("Transpose")
def _transpose(call: Call) -> Value:
    x = call.value()
    order = call.numbers("perm") or list(reversed(range(len(x.shape))))
    batch = None if x.axis is None else order.index(x.axis)
    dims = [x.dim(axis) for axis in order if axis != x.axis]
    if dims == sorted(dims):
        return Value(x.node, x.rest, batch)
    return call.builder.function(torch.permute, x, (0, *dims), axis=batch)


@rule("Concat")
def _concat(call: Call) -> Value:
    """Join tensors; constants among them are added to a result padded with zeros."""
    builder = call.builder
    values = [x for x in call.inputs if isinstance(x, Value)]
    axis, batch = axis_of(call.attribute("axis"), len(values[0].shape)), values[0].axis
    if batch == axis or (batch is not None and any(x.shape[batch] != 1 for x in values)):
        batch = None
    dim = axis if batch is None or axis < batch else axis - 1  # in the module, without the batch
    parts: list[Value] = []
    constants: list[Array] = []
    waiting = 0  # elements of constants that no padding stands for yet
    for operand in call.inputs:
        if isinstance(operand, Value):
            x = (
                builder.without_batch(operand)
                if batch is None
                else builder.batch_at(operand, batch)
            )
            parts.append(_pad_axis(call, x, dim, waiting, 0))
            constants.append(np.zeros(x.rest, call.dtype))
            waiting = 0
        else:
            assert operand is not None
            array = operand if batch is None else operand.squeeze(batch)
            constants.append(array)
            waiting += array.shape[dim]
    parts[-1] = _pad_axis(call, parts[-1], dim, 0, waiting)
    found = builder.function(torch.cat, parts, dim + 1, axis=batch) if len(parts) > 1 else parts[0]
    if len(constants) == len(values):
        return found
    added = builder.constant(call.tensor(np.concatenate(constants, dim)))
    return builder.function(operator.add, found, added, axis=batch)


def _pad_axis(call: Call, x: Value, dim: int, before: int, after: int) -> Value:
    if not before and not after:
        return x
    widths = [0, 0] * (len(x.rest) - 1 - dim) + [before, after]
    return call.builder.function(F.pad, x, widths, axis=x.axis)


def _constants(call: Call, names: tuple[str, ...]) -> list[list[int] | None]:
    return [call.numbers(name, index) for index, name in enumerate(names, start=1)]


@rule("Slice")
def _slice(call: Call) -> Value:
    x = call.value()
    starts, ends, axes, steps = _constants(call, ("starts", "ends", "axes", "steps"))
    if starts is None or ends is None:
        raise UnsupportedOperator("without starts and ends")
    axes = list(range(len(starts))) if axes is None else [axis_of(a, len(x.shape)) for a in axes]
    index = [slice(None)] * (len(x.rest) + 1)
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(axes), strict=True):
        taken = range(x.shape[axis])[start:end:step]
        if not taken:
            raise UnsupportedOperator(f"that leaves nothing of axis {axis}")
        if taken == range(x.shape[axis]):
            continue
        if axis == x.axis:
            raise UnsupportedOperator("of the batch axis")
        if step < 0:
            x = _take(call, x, axis, np.array(taken))
        else:
            index[x.dim(axis)] = slice(taken.start, taken[-1] + 1, None if step == 1 else step)
    while index and index[-1] == slice(None):
        index.pop()
    if not index:
        return x
    return call.builder.function(operator.getitem, x, tuple(index), axis=x.axis)


def _take(call: Call, x: Value, axis: int, places: Array) -> Value:
    """Take elements along an axis in any order."""
    index = call.builder.constant(torch.from_numpy(places.astype(np.int64)))
    return call.builder.function(torch.index_select, x, x.dim(axis), index, axis=x.axis)


@rule("Gather")
def _gather(call: Call) -> Value:
    x, places = call.value(), call.array(1)
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    size = x.shape[axis]
    places = np.where(places < 0, places + size, places)
    if ((places < 0) | (places >= size)).any():
        raise UnsupportedOperator(f"of elements outside an axis of size {size}")
    if axis == x.axis:
        if places.size != 1:
            x = call.builder.without_batch(x)
        elif places.ndim == 0:
            return _without(call, x, [axis])
        else:
            return x if places.ndim == 1 else _unsupported_rank(places)
    if places.ndim > 1:
        return _unsupported_rank(places)
    flat = places.reshape(-1)
    if places.ndim == 0:
        batch = x.axis_without([axis])
        return call.builder.function(torch.select, x, x.dim(axis), int(flat[0]), axis=batch)
    if np.array_equal(flat, np.arange(flat[0], flat[0] + len(flat))):
        index = [slice(None)] * x.dim(axis) + [slice(int(flat[0]), int(flat[-1]) + 1)]
        return call.builder.function(operator.getitem, x, tuple(index), axis=x.axis)
    return _take(call, x, axis, flat)


def _unsupported_rank(places: Array) -> Value:
    raise UnsupportedOperator(f"with indices of shape {places.shape}")


@rule("Split")
def _split(call: Call) -> tuple[Operand, ...]:
    x = call.value()
    axis = axis_of(call.attribute("axis", 0), len(x.shape))
    count = len(call.node.output)
    sizes = call.numbers("split", 1)
    if call.attribute("num_outputs", count) != count or len(sizes or range(count)) != count:
        raise UnsupportedOperator(f"into another number of parts than its {count} outputs")
    if sizes is None:
        whole = -(-x.shape[axis] // count)
        sizes = [whole] * (count - 1) + [x.shape[axis] - whole * (count - 1)]
    if axis == x.axis:
        raise UnsupportedOperator("of the batch axis")
    if min(sizes) < 1 or sum(sizes) != x.shape[axis]:
        raise UnsupportedOperator(f"of an axis of size {x.shape[axis]} into {sizes}")
    parts = call.builder.functions(torch.split, x, sizes, dim=x.dim(axis))
    return tuple(
        call.builder.function(operator.getitem, parts, i, axis=x.axis) for i in range(len(sizes))
    )


@rule("Expand")
def _expand(call: Call) -> Value:
    asked = tuple(int(v) for v in call.array(1).reshape(-1))
    x = call.builder.padded(call.value(), len(asked))
    shape = np.broadcast_shapes(x.shape, asked)
    if shape == x.shape:
        return x
    if x.axis is not None and shape[x.axis] != 1:
        x = call.builder.without_batch(x)
    return call.builder.method("expand", x, -1, *without(shape, x.axis), axis=x.axis)


@rule("Pad")
def _pad(call: Call) -> Value:
    x = call.value()
    rank = len(x.shape)
    pads, mode = call.numbers("pads", 1), call.attribute("mode", "constant")
    if pads is None:
        raise UnsupportedOperator("without pads")
    axes = call.numbers("axes", 3) or list(range(rank))
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        place = axis_of(axis, rank)
        before[place], after[place] = pads[i], pads[i + len(axes)]
    widths = []
    for axis in reversed(range(rank)):
        if axis != x.axis:
            widths += [before[axis], after[axis]]
        elif before[axis] or after[axis]:
            raise UnsupportedOperator("of the batch axis")
    while widths[-2:] == [0, 0]:
        widths = widths[:-2]
    array = call.optional(2)
    value = float(call.attribute("value", 0.0) if array is None else array.reshape(()))
    if not widths:
        return x
    if mode == "constant":
        return call.builder.function(F.pad, x, widths, value=value, axis=x.axis)
    kinds = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    images = len(x.rest) > 1 and len(widths) <= 2 * (len(x.rest) - 1)
    if mode not in kinds or not images or min(widths) < 0:
        raise UnsupportedOperator(f"of mode {mode} by {widths} on a tensor of shape {x.shape}")
    widths += [0] * (2 * (len(x.rest) - 1) - len(widths))
    return call.builder.function(F.pad, x, widths, mode=kinds[mode], axis=x.axis)
