"""What ONNX Runtime computes for a file, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taut.errors import ModelError, first_line
from taut.formats.onnx.read import read_model


def runtime(path: Path) -> Callable[[Tensor], Tensor] | None:
    """Return the network of a ``.onnx`` or ``.onnx.gz`` file as ONNX Runtime computes it.

    The function takes inputs ``(1, ...)`` with as many numbers as the file's input and returns
    the file's output; it runs on the CPU, in a session of its own. None where the package
    ``onnxruntime`` is not installed.

    Raises
    ------
    ModelError
        From the function, when ONNX Runtime refuses the file or the input.

    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None

    def evaluate(inputs: Tensor) -> Tensor:
        session = _session(path)
        (port,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        dtype = torch.float64 if port.type == "tensor(double)" else torch.float32
        try:
            feed = inputs.detach().to("cpu", dtype).reshape(shape).numpy()
            return torch.from_numpy(session.run(None, {port.name: feed})[0])
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise ModelError(f"ONNX Runtime cannot run {path}: {first_line(error)}") from error

    return evaluate


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = read_model(path).SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses {path}: {first_line(error)}") from error
