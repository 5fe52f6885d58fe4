"""Where the batch stands, and operators that move elements about, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_helpers import Weights, agree, layers, model_of, node, run, weights, write

import taut
from taut.errors import UnsupportedOperator
from taut.formats.onnx import load_onnx

IMAGE = (1, 3, 7, 6)

CHAINS: dict[str, tuple[list[Any], tuple[int, ...], Weights]] = {
    "reshape to a literal batch": (
        [node("Reshape", "x s", "y")], IMAGE, weights(s=[1, 126]),
    ),
    "reshape with a free batch": (
        [node("Reshape", "x s", "y")], IMAGE, weights(s=[-1, 126]),
    ),
    "reshape that keeps the batch": (
        [node("Reshape", "x s", "y")], IMAGE, weights(s=[0, 3, -1]),
    ),
    "reshape a flat input to an image": (
        [node("Reshape", "x s", "a"), node("Conv", "a w", "y")], (1, 126),
        weights(s=[1, 3, 7, 6], w=(2, 3, 3, 3)),
    ),
    "reshape a vector to an image": (
        [node("Reshape", "x s", "a"), node("Conv", "a w", "y")], (126,),
        weights(s=[1, 3, 7, 6], w=(2, 3, 3, 3)),
    ),
    "unsqueeze an image without a batch": (
        [node("Unsqueeze", "x a", "b"), node("Conv", "b w", "y")], (3, 7, 6),
        weights(a=[0], w=(2, 3, 3, 3)),
    ),
    "reshape away the batch": (
        [node("Reshape", "x s", "a"), node("MatMul", "a w", "y")], (1, 1, 6),
        weights(s=[6], w=(6, 4)),
    ),
    "computed reshape": (
        [node("Shape", "x", "s"), node("Gather", "s zero", "n"),
         node("Concat", "n rest", "t", axis=0), node("Reshape", "x t", "y")], IMAGE,
        weights(zero=[0], rest=[-1]),
    ),
    "size of the input": (
        [node("Size", "x", "s"), node("Unsqueeze", "s zero", "n"), node("Reshape", "x n", "y")],
        IMAGE, weights(zero=[0]),
    ),
    "flatten": ([node("Flatten", "x", "y")], IMAGE, {}),
    "flatten from the front": ([node("Flatten", "x", "y", axis=0)], IMAGE, {}),
    "flatten from axis 2": ([node("Flatten", "x", "y", axis=2)], (1, 1, 7, 6), {}),
    "flatten from behind": ([node("Flatten", "x", "y", axis=-1)], IMAGE, {}),
    "channels last": (
        [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a w", "b"),
         node("Transpose", "b", "y", perm=[0, 2, 3, 1])], (1, 7, 6, 3), weights(w=(4, 3, 3, 3)),
    ),
    "weights on the left": (
        [node("Transpose", "x", "a"), node("MatMul", "w a", "b"), node("Add", "b c", "d"),
         node("Relu", "d", "e"), node("Transpose", "e", "y")], (1, 6), weights(w=(4, 6), c=(4, 1)),
    ),
    "weights on the left of a column": (
        [node("Reshape", "x s", "a"), node("MatMul", "w a", "b"), node("Relu", "b", "c"),
         node("Reshape", "c t", "y")], (1, 1, 1, 5), weights(s=[5, 1], w=(4, 5), t=[1, -1]),
    ),
    "a vector": (
        [node("MatMul", "w x", "a"), node("Add", "a b", "c"), node("Relu", "c", "d"),
         node("MatMul", "d v", "y")], (6,), weights(w=(4, 6), b=(4,), v=(4, 3)),
    ),
    "inner products": (
        [node("MatMul", "x w", "y")], (1, 4, 6), weights(w=(6,)),
    ),
    "inner products on the left": (
        [node("MatMul", "w x", "y")], (1, 4, 6), weights(w=(4,)),
    ),
    "weights on the left of images": (
        [node("MatMul", "w x", "y")], IMAGE, weights(w=(5, 7)),
    ),
    "weights of three axes": (
        [node("MatMul", "x w", "y")], (1, 4, 6), weights(w=(1, 6, 5)),
    ),
    "product of two branches": (
        [node("Transpose", "x", "a", perm=[0, 2, 1]), node("MatMul", "x a", "y")], (1, 4, 6), {},
    ),
    "squeeze named axes": ([node("Squeeze", "x a", "y")], (1, 1, 6, 1), weights(a=[1, -1])),
    "squeeze all": (
        [node("Squeeze", "x", "a"), node("MatMul", "a w", "y")], (1, 1, 6, 1), weights(w=(6, 2)),
    ),
    "squeeze the batch": ([node("Squeeze", "x a", "y")], (1, 3, 6), weights(a=[0])),
    "unsqueeze": ([node("Unsqueeze", "x a", "y")], (1, 3, 6), weights(a=[0, 2, -1])),
    "concat": (
        [node("Relu", "x", "a"), node("Concat", "x a x", "y", axis=1)], IMAGE, {},
    ),
    "concat with a constant": (
        [node("Concat", "x c", "y", axis=-1)], IMAGE, weights(c=(1, 3, 7, 2)),
    ),
    "concat with constants all around": (
        [node("Relu", "x", "a"), node("Concat", "c x c d a d", "y", axis=2)], IMAGE,
        weights(c=(1, 3, 2, 6), d=(1, 3, 1, 6)),
    ),
    "concat along the batch": (
        [node("Relu", "x", "a"), node("Concat", "x a", "b", axis=0),
         node("Flatten", "b", "y", axis=0)],
        (1, 5), {},
    ),
    "concat of a batch and none": (
        [node("Reshape", "x s", "a"), node("Unsqueeze", "a z", "b"),
         node("Concat", "b x", "y", axis=1)],
        (1, 5), weights(s=[5], z=[0]),
    ),
    "pad": (
        [node("Pad", "x p c", "y")], IMAGE, weights(p=[0, 0, 1, 2, 0, 0, 0, 3], c=np.float32(0.5)),
    ),
    "pad channels of some axes": (
        [node("Pad", "x p - a", "y")], IMAGE, weights(p=[1, 2], a=[1]),
    ),
    "pad by reflection": (
        [node("Pad", "x p", "y", mode="reflect")], IMAGE, weights(p=[0, 0, 1, 2, 0, 0, 0, 3]),
    ),
    "pad by the edge": (
        [node("Pad", "x p", "y", mode="edge")], IMAGE, weights(p=[0, 0, 0, 2, 0, 0, 0, 3]),
    ),
    "crop": ([node("Pad", "x p", "y")], IMAGE, weights(p=[0, 0, -1, 0, 0, 0, 0, -2])),
    "slice": (
        [node("Slice", "x s e a t", "y")], IMAGE,
        weights(s=[1, -5], e=[3, 1000], a=[1, 3], t=[1, 2]),
    ),
    "slice all": ([node("Slice", "x s e", "y")], IMAGE, weights(s=[0, 0], e=[1, 3])),
    "slice backwards": (
        [node("Slice", "x s e a t", "y")], IMAGE, weights(s=[-1], e=[-1000], a=[1], t=[-1]),
    ),
    "gather one": ([node("Gather", "x i", "y", axis=2)], IMAGE, weights(i=np.array(-2))),
    "gather in order": ([node("Gather", "x i", "y", axis=1)], IMAGE, weights(i=[1, 2])),
    "gather anyhow": ([node("Gather", "x i", "y", axis=1)], IMAGE, weights(i=[2, 0, 2, -1])),
    "gather the batch": (
        [node("Gather", "x i", "a"), node("MatMul", "a w", "y")], (1, 6),
        weights(i=np.array(0), w=(6, 2)),
    ),
    "gather twice the batch": ([node("Gather", "x i", "y")], (1, 6), weights(i=[0, 0])),
    "split": (
        [node("Split", "x s", "a b c", axis=3), node("Concat", "c a", "y", axis=3)], IMAGE,
        weights(s=[2, 1, 3]),
    ),
    "expand": ([node("Expand", "x s", "y")], (1, 3, 1, 6), weights(s=[2, 1, 3, 4, 6])),
    "expand the batch": ([node("Expand", "x s", "y")], (1, 6), weights(s=[4, 1])),
    "broadcast a row and a column": (
        [node("Transpose", "x", "a"), node("Add", "x a", "y")], (1, 5), {},
    ),
    "cast to the same": ([node("Cast", "x", "a", to=1), node("Relu", "a", "y")], IMAGE, {}),
    "constants computed in the file": (
        [node("Sqrt", "v", "r"), node("Div", "one r", "q"), node("Mul", "x q", "y")], IMAGE,
        {"v": np.full((3, 1, 1), 4, np.float32), "one": np.float32(1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_layouts(name: str, tmp_path: Path) -> None:
    nodes, shape, constants = CHAINS[name]
    agree(tmp_path, model_of(nodes, shape, constants))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_over_all_axes_from_one_on(op: str, tmp_path: Path) -> None:
    model = model_of([node(op, "x", "y", axis=1)], (1, 6, 1, 1), opset=11)
    agree(tmp_path, model)
    with pytest.raises(UnsupportedOperator, match=rf"{op} over the axes \[1, 2, 3\]"):
        load_onnx(write(tmp_path / "two.onnx", model_of([node(op, "x", "y")], IMAGE, opset=11)))


OLD: dict[str, tuple[int, list[Any], Weights]] = {
    "Squeeze": (9, [node("Squeeze", "x", "y", axes=[1])], {}),
    "Unsqueeze": (9, [node("Unsqueeze", "x", "y", axes=[1])], {}),
    "Slice": (9, [node("Slice", "x", "y", starts=[1], ends=[3], axes=[2])], {}),
    "Pad": (9, [node("Pad", "x", "y", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.5)], {}),
    "Split": (11, [node("Split", "x", "a y", split=[2, 4], axis=2)], {}),
    "Dropout": (9, [node("Dropout", "x", "y", ratio=0.3)], {}),
    "Constant": (9, [node("Constant", "", "c", value=helper.make_tensor("v", 1, [1], [2.0])),
                     node("Mul", "x c", "y")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_forms_of_older_opsets(name: str, tmp_path: Path) -> None:
    opset, nodes, constants = OLD[name]
    agree(tmp_path, model_of(nodes, (1, 1, 6, 5), constants, opset=opset))


GEMMS = [
    {},
    {"transB": 1},
    {"transB": 1, "alpha": 0.5, "beta": -2.0},
    {"alpha": 3.0},
]


@pytest.mark.parametrize("attributes", GEMMS, ids=str)
@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), (), None])
def test_gemm(attributes: dict[str, Any], bias: tuple[int, ...] | None, tmp_path: Path) -> None:
    shape = (4, 6) if "transB" in attributes else (6, 4)
    constants = weights(w=shape) if bias is None else weights(w=shape, c=bias)
    nodes = [node("Gemm", "x w" if bias is None else "x w c", "y", **attributes)]
    loaded = agree(tmp_path, model_of(nodes, (1, 6), constants))
    assert layers(loaded) == ["Linear"]


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_with_weights_on_the_left(turned: int, tmp_path: Path) -> None:
    constants = weights(w=(6, 4) if turned else (4, 6), c=(4, 1))
    nodes = [node("Gemm", "w x c", "y", transA=turned, transB=1, alpha=0.5)]
    assert layers(agree(tmp_path, model_of(nodes, (1, 6), constants))) == ["Linear"]


def test_gemm_with_a_turned_input(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", "a"), node("Gemm", "a w c", "y", transA=1)]
    loaded = agree(tmp_path, model_of(nodes, (1, 6), weights(w=(6, 4), c=(4,))))
    assert "permute" not in loaded.network.code


def test_a_product_and_a_sum_become_one_layer(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Add", "b a", "y")]
    loaded = agree(tmp_path, model_of(nodes, (1, 6), weights(w=(6, 4), b=(4,))))
    assert layers(loaded) == ["Linear"]
    assert "+" not in loaded.network.code


@pytest.mark.parametrize("case", ["read twice", "a result", "too wide", "of higher rank"])
def test_a_sum_of_another_kind_stays_one(case: str, tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Add", "a b", "c"), node("Relu", "c", "y")]
    shape = {"too wide": (3, 4), "of higher rank": (1, 1, 4)}.get(case, (4,))
    if case == "read twice":
        nodes[2] = node("Mul", "c a", "y")
    elif case == "a result":
        nodes = [node("MatMul", "x w", "y"), node("Add", "y b", "c")]
    loaded = agree(tmp_path, model_of(nodes, (1, 6), weights(w=(6, 4), b=shape)))
    assert next(m for m in loaded.modules() if isinstance(m, torch.nn.Linear)).bias is None


def test_the_batch_is_the_first_axis_of_every_tensor(tmp_path: Path) -> None:
    nodes, shape, constants = CHAINS["weights on the left"]
    loaded = load_onnx(write(tmp_path / "net.onnx", model_of(nodes, shape, constants)))
    assert layers(loaded) == ["Linear", "ReLU"]
    graph = taut.trace(loaded, (6,))
    x = torch.rand(5, 6)
    torch.testing.assert_close(graph.instance()(x), loaded(x))


def test_squeezing_all_axes_leaves_a_free_batch(tmp_path: Path) -> None:
    nodes = [node("Squeeze", "x", "a"), node("MatMul", "a w", "y")]
    model = model_of(nodes, ("N", 1, 6, 1), weights(w=(6, 2)), output_rank=2)
    loaded = load_onnx(write(tmp_path / "net.onnx", model))
    x = torch.rand(3, 1, 6, 1)
    (wanted,) = run(model, x.numpy())
    torch.testing.assert_close(loaded(x).detach(), torch.from_numpy(wanted))


@pytest.mark.parametrize("batch", [1, "N", None, 0])
def test_a_batch_of_one_or_free(batch: int | str | None, tmp_path: Path) -> None:
    nodes = [
        node("Sub", "x m", "a"),
        node("Flatten", "a", "b"),
        node("Gemm", "b w c", "d", transB=1),
        node("Relu", "d", "e"),
        node("Gemm", "e v", "y"),
    ]
    constants = weights(m=(1, 1, 1, 5), w=(4, 5), c=(4,), v=(4, 3))
    model = model_of(nodes, (batch, 1, 1, 5), constants, output_rank=2)
    loaded = load_onnx(write(tmp_path / "net.onnx", model))
    assert loaded.input_shape == (1, 1, 5)
    assert loaded.output_shape == (3,)
    x = torch.rand(3, 1, 1, 5)
    fixed = model_of(nodes, (1, 1, 1, 5), constants)
    wanted = np.concatenate(run(fixed, *(one[None].numpy() for one in x)))
    torch.testing.assert_close(loaded(x).detach(), torch.from_numpy(wanted))
    graph = taut.trace(loaded, loaded.input_shape)
    torch.testing.assert_close(graph.instance()(x), loaded(x))


def test_bounds_of_a_network_hold_on_samples(tmp_path: Path) -> None:
    nodes = [
        node("Sub", "x m", "a"),
        node("Conv", "a k", "b", pads=[1, 1, 1, 1]),
        node("Relu", "b", "c"),
        node("Add", "c a", "d"),
        node("Reshape", "d s", "e"),
        node("MatMul", "e w", "f"),
        node("Add", "f v", "y"),
    ]
    constants = weights(m=(3, 1, 1), k=(3, 3, 3, 3), s=[1, -1], w=(75, 4), v=(4,))
    loaded = agree(tmp_path, model_of(nodes, (1, 3, 5, 5), constants), low=0, high=1)
    x = torch.rand(2, 3, 5, 5)
    found = taut.bounds(loaded, taut.Box.around(x, 0.05), "crown")
    for _ in range(50):
        near = (x + 0.05 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        logits = loaded(near)
        assert (found.lower - 1e-4 <= logits).all()
        assert (logits <= found.upper + 1e-4).all()
