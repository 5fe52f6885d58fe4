"""ONNX files made for the tests, and what ONNX Runtime says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from taut.formats.onnx import OnnxNetwork, load_onnx

Weights = Mapping[str, np.ndarray]
NUMBERS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
           np.dtype(np.float16): TensorProto.FLOAT16}  # fmt: skip


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Make a node; its inputs and outputs are separated by spaces, ``-`` for one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"{op} to {outputs}", **attributes)


def weights(**arrays: Any) -> dict[str, np.ndarray]:
    """Return constants: shapes as float32 noise, lists as whole numbers, arrays as they are."""
    found = {}
    for index, (name, value) in enumerate(arrays.items()):
        if isinstance(value, tuple):
            noise = np.random.default_rng(index).standard_normal(value)
            found[name] = np.asarray(noise, dtype=np.float32)
        else:
            found[name] = np.array(value, dtype=np.int64) if isinstance(value, list) else value
    return found


def model_of(
    nodes: Sequence[NodeProto],
    shape: Sequence[int | str | None],
    constants: Weights | None = None,
    *,
    opset: int = 18,
    dtype: Any = np.float32,
    output_rank: int | None = None,
) -> ModelProto:
    """Make a model from ``x`` of the given shape to ``y``, whose shape is inferred.

    With ``output_rank`` the file says only how many axes ``y`` has.
    """
    kind = NUMBERS[np.dtype(dtype)]
    sizes = None if output_rank is None else [None] * output_rank
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, sizes)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made) if sizes is None else made


def write(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(model: ModelProto | Path, *samples: np.ndarray) -> list[np.ndarray]:
    """Return what ONNX Runtime computes for each input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: sample})[0] for sample in samples]


def agree(
    folder: Path, model: ModelProto, *, low: float = -2.0, high: float = 2.0, exact: bool = False
) -> OnnxNetwork:
    """Load a model and compare it with ONNX Runtime, sample by sample and in batches.

    The file's first axis must be 1 or free where it has several. Batches of 1 and 3 are
    compared to 1e-5 of the output scale in the file's precision, and in float64 too.
    """
    loaded = load_onnx(write(folder / "net.onnx", model))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in dims]
    dtype = next(
        t for t, n in NUMBERS.items() if n == model.graph.input[0].type.tensor_type.elem_type
    )
    rng = np.random.default_rng(5)
    samples = [rng.uniform(low, high, shape).astype(dtype) for _ in range(4)]
    wanted = torch.stack([torch.from_numpy(np.array(y)) for y in run(model, *samples)])
    x = torch.stack([torch.from_numpy(sample) for sample in samples])
    x = x.reshape(4, *loaded.input_shape)
    with torch.no_grad():
        found = torch.cat([loaded(x[:1]), loaded(x[1:])])
        double = load_onnx(folder / "net.onnx").double()(x.double())
    assert tuple(found.shape[1:]) == loaded.output_shape
    assert found.dtype == wanted.dtype
    wanted = wanted.reshape(found.shape)
    scale = float(wanted.abs().max())
    assert scale > 0
    assert float((found - wanted).abs().max()) <= (0 if exact else 1e-5 * scale)
    assert float((double - wanted.double()).abs().max()) <= 1e-5 * scale
    again = torch.fx.symbolic_trace(loaded)
    assert torch.equal(again(x[1:]), found[1:])
    return loaded


def layers(model: torch.nn.Module) -> list[str]:
    """Return the kinds of layers, in order."""
    return [type(m).__name__ for m in model.modules() if not list(m.children())]
