"""Every ONNX operator with a rule, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_helpers import Weights, agree, layers, model_of, node, weights

from taut.formats.onnx.call import RULES

Case = tuple[str, tuple[int, ...], dict[str, Any], Weights]
IMAGE = (1, 3, 7, 6)

UNARY: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "relu": ("Relu", {}, "ReLU"),
    "leaky": ("LeakyRelu", {"alpha": 0.2}, "LeakyReLU"),
    "leaky by default": ("LeakyRelu", {}, "LeakyReLU"),
    "elu": ("Elu", {"alpha": 0.7}, "ELU"),
    "sigmoid": ("Sigmoid", {}, "Sigmoid"),
    "tanh": ("Tanh", {}, "Tanh"),
    "softplus": ("Softplus", {}, "Softplus"),
    "softsign": ("Softsign", {}, "Softsign"),
    "mish": ("Mish", {}, "Mish"),
    "hard swish": ("HardSwish", {}, "Hardswish"),
    "hard sigmoid": ("HardSigmoid", {"alpha": 1 / 6}, "Hardsigmoid"),
    "gelu": ("Gelu", {}, "GELU"),
    "gelu by tanh": ("Gelu", {"approximate": "tanh"}, "GELU"),
    "exp": ("Exp", {}, None),
    "abs": ("Abs", {}, None),
    "neg": ("Neg", {}, None),
    "sign": ("Sign", {}, None),
    "erf": ("Erf", {}, None),
    "sin": ("Sin", {}, None),
    "cos": ("Cos", {}, None),
    "identity": ("Identity", {}, None),
    "dropout": ("Dropout", {}, None),
    "softmax": ("Softmax", {"axis": 1}, "Softmax"),
    "softmax by default": ("Softmax", {}, "Softmax"),
    "log-softmax": ("LogSoftmax", {"axis": -2}, "LogSoftmax"),
}
POSITIVE = {"log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal"}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(name: str, tmp_path: Path) -> None:
    op, attributes, layer = UNARY[name]
    model = model_of([node(op, "x", "y", **attributes)], IMAGE, opset=22)
    loaded = agree(tmp_path, model)
    assert layers(loaded) == [layer or "Network"]  # a network of functions has no layers


@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_positive_numbers(name: str, tmp_path: Path) -> None:
    agree(tmp_path, model_of([node(POSITIVE[name], "x", "y")], IMAGE), low=0.1)


CLIPS = {
    (0.0, None): "ReLU",
    (0.0, 6.0): "ReLU6",
    (-0.5, 1.25): "Hardtanh",
    (None, 0.5): "Network",
    (-0.25, None): "Network",
    (None, None): "Network",
}


@pytest.mark.parametrize("ends", CLIPS)
@pytest.mark.parametrize("opset", [7, 13])
def test_clip(ends: tuple[float | None, float | None], opset: int, tmp_path: Path) -> None:
    named = dict(zip(("min", "max"), ends, strict=True))
    given = {name: end for name, end in named.items() if end is not None}
    if opset == 7:
        nodes, constants = [node("Clip", "x", "y", **given)], {}
    else:
        inputs = " ".join(name if name in given else "-" for name in named)
        nodes = [node("Clip", f"x {inputs}", "y")]
        constants = {name: np.float32(end) for name, end in given.items()}
    loaded = agree(tmp_path, model_of(nodes, IMAGE, constants, opset=opset), low=-3, high=9)
    assert layers(loaded) == [CLIPS[ends]]


@pytest.mark.parametrize("shape", [(1,), (3, 1, 1)])
def test_prelu(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = model_of([node("PRelu", "x slope", "y")], IMAGE, weights(slope=shape))
    assert layers(agree(tmp_path, model)) == ["PReLU"]


CONSTANTS = [(), (1,), (6,), (7, 1), (3, 1, 1), (1, 3, 7, 6), (1, 1, 1, 1), (3, 7, 6), (2, 1, 1, 6),
             (1, 1, 3, 7, 6)]  # fmt: skip


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", CONSTANTS)
def test_arithmetic_with_a_constant(
    op: str, first: bool, shape: tuple[int, ...], tmp_path: Path
) -> None:
    constants = weights(c=shape)
    if op == "Div":
        constants = {"c": np.abs(constants["c"]) + np.float32(0.5)}
    model = model_of([node(op, "c x" if first else "x c", "y")], IMAGE, constants)
    agree(tmp_path, model, low=0.5)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])
@pytest.mark.parametrize("swapped", [False, True])
def test_arithmetic_of_two_branches(op: str, swapped: bool, tmp_path: Path) -> None:
    nodes = [node("Exp", "x", "a"), node("ReduceMean", "a axes", "b")]
    nodes.append(node(op, "b a" if swapped else "a b", "y"))
    agree(tmp_path, model_of(nodes, IMAGE, weights(axes=[1, 3])))


def test_sums_of_three_and_a_constant(tmp_path: Path) -> None:
    nodes = [node("Tanh", "x", "a"), node("Sum", "x c a", "b"), node("Max", "a b c", "y")]
    agree(tmp_path, model_of(nodes, IMAGE, weights(c=(3, 1, 1))))


@pytest.mark.parametrize("power", [2.0, 3.0, 0.5, -1.5])
def test_powers(power: float, tmp_path: Path) -> None:
    constants = {"p": np.array([power], np.float32)}
    agree(tmp_path, model_of([node("Pow", "x p", "y")], IMAGE, constants), low=0.25)


CONVOLUTIONS: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ({}, IMAGE, (4, 3, 3, 2)),
    ({"pads": [1, 0, 1, 0], "strides": [2, 1]}, IMAGE, (4, 3, 3, 3)),
    ({"pads": [0, 1, 2, 0], "strides": [2, 2]}, IMAGE, (4, 3, 3, 3)),
    ({"dilations": [2, 1], "kernel_shape": [3, 3]}, IMAGE, (4, 3, 3, 3)),
    ({"group": 3}, IMAGE, (6, 1, 2, 2)),
    ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, IMAGE, (4, 3, 4, 3)),
    ({"auto_pad": "SAME_LOWER", "strides": [1, 3]}, IMAGE, (4, 3, 2, 3)),
    ({"auto_pad": "VALID"}, IMAGE, (4, 3, 2, 3)),
    ({"pads": [2, 1], "strides": [2]}, (1, 3, 9), (4, 3, 3)),
    ({"pads": [1] * 6}, (1, 2, 4, 3, 3), (2, 2, 3, 3, 3)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: str(c[0]))
@pytest.mark.parametrize("biased", [False, True])
def test_convolutions(case: Any, biased: bool, tmp_path: Path) -> None:
    attributes, shape, kernel = case
    nodes = [node("Conv", "x w b" if biased else "x w", "y", **attributes)]
    loaded = agree(tmp_path, model_of(nodes, shape, weights(w=kernel, b=(kernel[0],))))
    assert layers(loaded) == [f"Conv{len(shape) - 2}d"]
    (layer,) = loaded.network.children()
    assert (layer.bias is not None) == biased


TRANSPOSED: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ({}, IMAGE, (3, 4, 3, 2)),
    ({"pads": [1, 0, 1, 0], "strides": [2, 1]}, IMAGE, (3, 4, 3, 3)),
    ({"pads": [1, 1, 0, 1], "strides": [2, 2]}, IMAGE, (3, 4, 3, 3)),
    ({"output_padding": [1, 0], "strides": [2, 2]}, IMAGE, (3, 4, 3, 3)),
    ({"group": 3, "dilations": [2, 1]}, IMAGE, (3, 2, 2, 2)),
    ({"pads": [1, 1], "strides": [2]}, (1, 3, 5), (3, 2, 4)),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda c: str(c[0]))
def test_transposed_convolutions(case: Any, tmp_path: Path) -> None:
    attributes, shape, kernel = case
    groups = attributes.get("group", 1)
    constants = weights(w=kernel, b=(kernel[1] * groups,))
    loaded = agree(
        tmp_path, model_of([node("ConvTranspose", "x w b", "y", **attributes)], shape, constants)
    )
    assert layers(loaded) == [f"ConvTranspose{len(shape) - 2}d"]


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 5), IMAGE, (1, 3, 2, 3, 2)])
def test_batch_normalisation(shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = weights(scale=(3,), bias=(3,), mean=(3,), var=(3,))
    constants["var"] = np.abs(constants["var"]) + np.float32(0.1)
    nodes = [node("BatchNormalization", "x scale bias mean var", "y", epsilon=0.01)]
    loaded = agree(tmp_path, model_of(nodes, shape, constants))
    assert layers(loaded) == [f"BatchNorm{max(len(shape) - 2, 1)}d"]
    assert not loaded.training


POOLS: list[tuple[str, dict[str, Any]]] = [
    ("MaxPool", {"kernel_shape": [3, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 2, 1]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
]


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pooling(case: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    op, attributes = case
    agree(tmp_path, model_of([node(op, "x", "y", **attributes)], IMAGE, opset=11))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_along_one_axis(op: str, tmp_path: Path) -> None:
    nodes = [node(op, "x", "y", kernel_shape=[3], strides=[2], pads=[1, 1])]
    assert layers(agree(tmp_path, model_of(nodes, (1, 2, 9)))) in (["MaxPool1d"], ["AvgPool1d"])


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [[2], [-1, 1], [2, 3], [0, 1], None])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [11, 18])
def test_reductions(op: str, axes: list[int] | None, keep: int, opset: int, tmp_path: Path) -> None:
    if opset == 11:
        given = {} if axes is None else {"axes": axes}
        nodes, constants = [node(op, "x", "y", keepdims=keep, **given)], {}
    else:
        nodes = [node(op, "x" if axes is None else "x axes", "y", keepdims=keep)]
        constants = weights(axes=axes or [0])
    agree(tmp_path, model_of(nodes, IMAGE, constants, opset=opset))


@pytest.mark.parametrize("form", ["scales", "sizes", "old", "asymmetric"])
def test_upsampling(form: str, tmp_path: Path) -> None:
    constants = {"scales": np.array([1, 1, 2, 3], np.float32), "sizes": np.array([1, 3, 14, 18])}
    nodes, opset = [node("Resize", "x - scales", "y", mode="nearest")], 13
    if form == "sizes":
        nodes = [node("Resize", "x - - sizes", "y", mode="nearest")]
    elif form == "old":
        nodes, opset = [node("Upsample", "x scales", "y", mode="nearest")], 9
    elif form == "asymmetric":
        placed = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes = [node("Resize", "x - scales", "y", mode="nearest", **placed)]
    assert layers(agree(tmp_path, model_of(nodes, IMAGE, constants, opset=opset))) == ["Upsample"]


def test_every_rule_is_used_here() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_onnx_*.py"))
    unused = [name for name in RULES if f'"{name}"' not in text]
    assert not unused
