"""What cannot be read is refused in one line that says what to do."""

from __future__ import annotations

import builtins
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_helpers import Weights, model_of, node, weights, write

import taut
from taut.errors import ConfigError, ModelError, TautError, UnsupportedOperator
from taut.formats.onnx import load_onnx, save_onnx

IMAGE = (1, 3, 6, 6)


def refusal(folder: Path, model: onnx.ModelProto) -> str:
    path = write(folder / "net.onnx", model)
    with pytest.raises(TautError) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


CASES: dict[str, tuple[list[Any], tuple[Any, ...], Weights, str]] = {
    "no rule": (
        [node("ArgMax", "x", "a"), node("Cast", "a", "y", to=1)], IMAGE, {},
        "ArgMax at node 'ArgMax to a', opset 18; supported: Abs, Add, AveragePool",
    ),
    "another domain": (
        [helper.make_node("Magic", ["x"], ["y"], name="m", domain="com.microsoft")], IMAGE, {},
        "Magic of the domain 'com.microsoft' at node 'm'",
    ),
    "unread attribute": (
        [node("ConvTranspose", "x w", "y", output_shape=[9, 9])], IMAGE, weights(w=(3, 2, 3, 3)),
        "ConvTranspose with the attribute 'output_shape' at node",
    ),
    "uneven average": (
        [node("AveragePool", "x", "y", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], IMAGE, {},
        "AveragePool with uneven pads",
    ),
    "indices of a maximum": (
        [node("MaxPool", "x", "a i", kernel_shape=[2, 2]), node("Cast", "i", "y", to=1)], IMAGE, {},
        "Cast on 'i', which no rule computes, at node",
    ),
    "training": (
        [node("BatchNormalization", "x s b m v", "y p q", training_mode=1)], IMAGE,
        weights(s=(3,), b=(3,), m=(3,), v=np.ones(3, np.float32)),
        "BatchNormalization in training mode",
    ),
    "narrow type": (
        [node("Cast", "x", "a", to=10), node("Cast", "a", "y", to=1)], IMAGE, {},
        "Cast to float16 of a tensor of torch.float32",
    ),
    "bilinear": (
        [node("Resize", "x - s", "y", mode="linear")], IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)}, "Resize with mode linear, not nearest,",
    ),
    "uneven factors": (
        [node("Resize", "x - s", "y", mode="nearest")], IMAGE,
        {"s": np.array([1, 1, 1.5, 2], np.float32)}, "Resize by the factors [1.0, 1.0, 1.5, 2.0]",
    ),
    "other placement": (
        [node("Resize", "x - s", "y", coordinate_transformation_mode="align_corners")], IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)}, "Resize with align_corners coordinates",
    ),
    "random numbers": (
        [node("RandomNormal", "", "r", shape=[6]), node("Add", "x r", "y")], IMAGE, {},
        "RandomNormal that draws random numbers",
    ),
    "infinite weights": (
        [node("MatMul", "x w", "y")], (1, 2), {"w": np.full((2, 2), np.inf, np.float32)},
        "MatMul with weights that are NaN or infinite",
    ),
    "computed NaN": (
        [node("Sqrt", "c", "w"), node("Add", "x w", "y")], (1, 2),
        {"c": np.full(2, -1, np.float32)}, "Add with weights that are NaN or infinite",
    ),
    "mixed samples": (
        [node("ReduceMean", "x a", "y")], ("N", 4), weights(a=[0]),
        "ReduceMean over the batch axis, which mixes the samples of a batch,",
    ),
    "slices of a batch": (
        [node("Concat", "x x", "a", axis=0), node("Relu", "a", "y")], ("N", 4), {},
        "Concat over the batch axis",
    ),
    "one sample of a batch": (
        [node("Gather", "x i", "y")], ("N", 4), weights(i=np.array(0)),
        "Gather over the batch axis",
    ),
    "images without a batch": (
        [node("Conv", "x w", "y")], (5, 3, 6, 6), weights(w=(2, 3, 3, 3)),
        "Conv on a tensor of shape (5, 3, 6, 6), whose axis 0 should be a batch of one,",
    ),
    "dynamic weights": (
        [node("Conv", "x x", "y")], (1, 1, 3, 3), {}, "Conv whose input 1 depends on",
    ),
    "a product": ([node("MatMul", "x x", "y")], (1, 1), {}, "MatMul of two tensors of shapes"),
    "a graph of its own": (
        [helper.make_node("Loop", ["", "c", "x"], ["y"], name="l", body=helper.make_graph(
            [node("Identity", "k", "kk"), node("Relu", "v", "vv")], "body",
            [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("k", 9, []),
             helper.make_tensor_value_info("v", 1, None)],
            [helper.make_tensor_value_info("kk", 9, []),
             helper.make_tensor_value_info("vv", 1, None)]))], IMAGE,
        {"c": np.array(True)}, "Loop with a graph of its own at node 'l'",
    ),
    "unknown axes": (
        [node("Relu", "x", "y")], (1, "C", 4), {},
        "axes of unknown size, 1 x ? x 4; only the batch",
    ),
    "a free vector": ([node("Relu", "x", "y")], ("N",), {}, "axes of unknown size, ?; only"),
    "a number": ([node("Relu", "x", "y")], (), {}, "the input 'x' has no known axes"),
    "a constant": (
        [node("Identity", "c", "y")], (1, 2), weights(c=(2,)),
        "the output 'y' does not depend on the input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_has_no_rule_is_named(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, words = CASES[name]
    model = model_of(nodes, shape, constants, output_rank=2)
    domains = {n.domain for n in nodes} - {""}
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    assert words in refusal(tmp_path, model)


def test_dilated_averages_are_refused(tmp_path: Path) -> None:
    nodes = [node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])]
    words = refusal(tmp_path, model_of(nodes, IMAGE, opset=19))
    assert "AveragePool with dilations [2, 2] at node 'AveragePool to y', opset 19" in words


def _two(kind: str) -> onnx.ModelProto:
    model = model_of([node("Relu", "x", "y"), node("Exp", "x", "z")], IMAGE)
    if kind == "outputs":
        model.graph.output.append(helper.make_tensor_value_info("z", 1, IMAGE))
    else:
        model.graph.input.append(helper.make_tensor_value_info("v", 1, IMAGE))
    return model


def _whole_numbers() -> onnx.ModelProto:
    model = model_of([node("Cast", "x", "y", to=1)], IMAGE)
    model.graph.input[0].type.tensor_type.elem_type = 2
    return model


def _wrong_output() -> onnx.ModelProto:
    model = model_of([node("Relu", "x", "y")], IMAGE)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    return model


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "several inputs": (lambda: _two("inputs"), "has 2 inputs (x, v)"),
    "several outputs": (lambda: _two("outputs"), "has 2 outputs (y, z)"),
    "whole numbers": (_whole_numbers, "'x' holds uint8"),
    "an output of another shape": (_wrong_output, "of shape (1, 4, 6, 6), and computes one of"),
    "old": (lambda: model_of([node("Relu", "x", "y")], IMAGE, opset=6), "is of opset 6"),
    "NaN": (
        lambda: model_of([node("Add", "x w", "y")], (1, 2), {"w": np.float32([0, np.nan])}),
        "the tensor 'w' holds NaN",
    ),
    "a loose end": (
        lambda: model_of([node("Add", "x nowhere", "y")], (1, 2)), "breaks the rules of ONNX",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_of_another_kind(name: str, tmp_path: Path) -> None:
    make, words = MODELS[name]
    assert words in refusal(tmp_path, make())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no ONNX file .*nosuch\.onnx; check the path"):
        load_onnx(tmp_path / "nosuch.onnx")


@pytest.mark.parametrize("content", [b"", b"no network at all", bytes(range(256)) * 4])
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is no ONNX file or is truncated"):
        load_onnx(path)


def test_truncated_files(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x w", "y")], (1, 50), weights(w=(50, 10)))
    content = model.SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(1, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"no ONNX file|breaks the rules|no known axes|inputs"):
            load_onnx(path)
    path = tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(ModelError, match="damaged or truncated"):
        load_onnx(path)


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x w", "y")], (1, 50), weights(w=(50, 10)))
    path = tmp_path / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").stat().st_size >= 2000
    loaded = load_onnx(path)
    (layer,) = loaded.network.children()
    wanted = numpy_helper.to_array(
        model_of([node("MatMul", "x w", "y")], (1, 50), weights(w=(50, 10))).graph.initializer[0]
    )
    assert torch.equal(layer.weight.detach().T, torch.from_numpy(np.array(wanted)))
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"keeps weights in net\.data, which cannot be read"):
        load_onnx(path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, missing = builtins.__import__, "onnx"

    def no_onnx(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_onnx)
    with pytest.raises(ConfigError, match=r"package onnx .*pip install 'taut\[onnx\]'"):
        load_onnx(tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match=r"pip install 'taut\[onnx\]'"):
        save_onnx(torch.nn.Linear(2, 2), tmp_path / "net.onnx", (2,))
    missing = "onnxscript"
    with pytest.raises(ConfigError, match=r"package onnxscript .*pip install 'taut\[onnx\]'"):
        save_onnx(torch.nn.Linear(2, 2), tmp_path / "net.onnx", (2,))


def test_sign_is_loaded_and_refused_by_name_when_bounded(tmp_path: Path) -> None:
    nodes = [node("Sign", "x", "a"), node("MatMul", "a w", "y")]
    loaded = load_onnx(write(tmp_path / "net.onnx", model_of(nodes, (1, 4), weights(w=(4, 3)))))
    with pytest.raises(UnsupportedOperator, match="sign"):
        taut.trace(loaded, (4,))
