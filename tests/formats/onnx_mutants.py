"""ONNX files with something changed: bytes, fields, weights, shapes, operators."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_helpers import model_of, node

Change = Callable[[ModelProto, random.Random], None]


def originals() -> dict[str, ModelProto]:
    """A dense network, a convolution with pooling and normalisation, and a branching one."""
    rng = np.random.default_rng(3)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    dense = model_of(
        [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r v c", "y")],
        (1, 3), {"w": noise(5, 3), "b": noise(5), "v": noise(5, 2), "c": noise(2)},
    )  # fmt: skip
    image = model_of(
        [
            node("Conv", "x k b", "h", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]),
            node("BatchNormalization", "h s t m u", "n"),
            node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[1, 1]),
            node("Flatten", "p", "f"),
            node("MatMul", "f v", "g"),
            node("Add", "g c", "y"),
        ],
        (1, 1, 3, 3),
        {"k": noise(2, 1, 2, 2), "b": noise(2), "s": noise(2), "t": noise(2), "m": noise(2),
         "u": np.abs(noise(2)) + 0.5, "v": noise(8, 2), "c": noise(2)},
    )  # fmt: skip
    branching = model_of(
        [
            node("Reshape", "x s", "f"),
            node("MatMul", "f w", "h"),
            node("LeakyRelu", "h", "r", alpha=0.1),
            node("Add", "r f", "a"),
            node("Concat", "a r", "q", axis=1),
            node("MatMul", "q v", "g"),
            node("Sub", "g c", "y"),
        ],
        (1, 2, 2),
        {"s": np.array([1, 4], np.int64), "w": noise(4, 4), "v": noise(8, 2), "c": noise(2)},
    )
    return {"dense": dense, "image": image, "branching": branching}


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """Flip bits, overwrite, delete, insert or cut off."""
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at, kind = chance.randrange(len(made)), chance.randrange(6)
        if kind == 0:
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            made[at] = chance.randrange(256)
        elif kind == 2:
            del made[at : at + chance.randrange(1, 9)]
        elif kind == 3:
            made[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5)))
        elif kind == 4:
            made[at] = (made[at] + chance.choice([1, -1])) % 256
        elif chance.random() < 0.3:
            del made[at:]
        if not made:
            made = bytearray(b"\0")
    return bytes(made)


def _weights(model: ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind == "f":
        wrong = [math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.0, -1.0, 1e20]
        array.flat[chance.randrange(array.size)] = chance.choice(wrong)
    else:
        wrong = [-1, 0, 5, 2**40, -(2**62), 2**31]
        array.flat[chance.randrange(array.size)] = chance.choice(wrong)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shape_of_weights(model: ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    if chance.random() < 0.5 and len(tensor.dims) > 1:
        tensor.dims[:] = reversed(tensor.dims)
    else:
        at = chance.randrange(len(tensor.dims))
        tensor.dims[at] = chance.choice([0, -1, 1, tensor.dims[at] + 1, 2**31, 2**62])


def _type_of_weights(model: ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.initializer).data_type = chance.choice(
        [0, 1, 2, 7, 8, 10, 11, 14, 99]
    )


def _lost_weights(model: ModelProto, chance: random.Random) -> None:
    del model.graph.initializer[chance.randrange(len(model.graph.initializer))]


def _outside(model: ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    places = ["nowhere.data", "../../outside.data", "net.onnx", "/etc/hostname", ""]
    for key, value in (("location", chance.choice(places)), ("offset", "0"), ("length", "99999")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _shape_of_ends(model: ModelProto, chance: random.Random) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    kind = chance.randrange(4)
    if kind == 0:
        del dims[chance.randrange(len(dims))]
    elif kind == 1:
        chance.choice(dims).dim_param = "N"
    elif kind == 2:
        dims.add().dim_value = chance.choice([1, 2, 2**33])
    else:
        chance.choice(dims).dim_value = chance.choice([0, -1, 2, 7, 10**6, 2**31, 2**62])


def _lost_node(model: ModelProto, chance: random.Random) -> None:
    del model.graph.node[chance.randrange(len(model.graph.node))]


def _moved_node(model: ModelProto, chance: random.Random) -> None:
    nodes = list(model.graph.node)
    chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _inputs(model: ModelProto, chance: random.Random) -> None:
    names = [name for n in model.graph.node for name in (*n.input, *n.output)] + ["", "nowhere"]
    some = chance.choice(model.graph.node)
    kind = chance.randrange(3)
    if kind == 0:
        some.input[chance.randrange(len(some.input))] = chance.choice(names)
    elif kind == 1:
        del some.input[chance.randrange(len(some.input))]
    else:
        some.input.append(chance.choice(names))


def _operator(model: ModelProto, chance: random.Random) -> None:
    kinds = ["Relu", "Sigmoid", "Add", "Sub", "Mul", "Div", "MatMul", "Transpose", "Exp", "Neg",
             "Sqrt", "Softmax", "Reshape", "Conv", "Identity", "Magic", "", "Loop"]  # fmt: skip
    some = chance.choice(model.graph.node)
    some.op_type = chance.choice(kinds)
    if chance.random() < 0.5:
        del some.attribute[:]


def _attributes(model: ModelProto, chance: random.Random) -> None:
    having = [n for n in model.graph.node if n.attribute]
    if not having:
        return _operator(model, chance)
    attribute = chance.choice(chance.choice(having).attribute)
    if attribute.ints:
        at = chance.randrange(len(attribute.ints))
        attribute.ints[at] = chance.choice([-1, 0, 1, 2, 3, 100, 2**31, 2**62])
    elif attribute.HasField("f"):
        attribute.f = chance.choice([math.nan, math.inf, -1.0, 0.0, 2.0, 1e30])
    else:
        attribute.i = chance.choice([-1, 0, 2, 3, -5, 2**40])
    return None


def _versions(model: ModelProto, chance: random.Random) -> None:
    kind = chance.randrange(3)
    if kind == 0:
        model.opset_import[0].version = chance.choice([0, 1, 6, 7, 9, 13, 23, 99, -1, 2**40])
    elif kind == 1:
        model.ir_version = chance.choice([0, 1, 3, 99, 2**40])
    else:
        del model.opset_import[:]


CHANGES: tuple[Change, ...] = (
    _weights, _shape_of_weights, _type_of_weights, _lost_weights, _outside, _shape_of_ends,
    _lost_node, _moved_node, _inputs, _operator, _attributes, _versions,
)  # fmt: skip


def mutant(model: ModelProto, number: int, chance: random.Random) -> bytes:
    """Return a file with something changed: every third in its bytes, else in its fields."""
    if number % 3 == 0:
        return changed_bytes(model.SerializeToString(), chance)
    made = ModelProto()
    made.CopyFrom(model)
    for _ in range(chance.choice([1, 1, 1, 2])):
        with suppress(IndexError, ValueError):  # nothing is left of what it would change
            CHANGES[number // 3 * 2 % len(CHANGES) + number % 3 - 1](made, chance)
    return made.SerializeToString()
