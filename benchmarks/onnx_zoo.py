"""Every network of the zoo, written to ONNX, against ONNX Runtime and against taut's reading.

python benchmarks/onnx_zoo.py [--json] [--net NAME]

The errors are the largest differences over the largest output, of a batch of 3 random images and
with random statistics of batch normalisation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from taut.errors import TautError
from taut.formats.onnx import load_onnx, save_onnx
from taut.models import MODELS, build

LIMIT = 1e-5


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = build(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def compare(name: str, path: Path) -> dict[str, Any]:
    net, shape = network(name), MODELS[name].input_shape
    began = time.perf_counter()
    save_onnx(net, path, shape)
    seconds = time.perf_counter() - began
    x = torch.rand(3, *shape)
    with torch.no_grad():
        wanted, again = net(x), load_onnx(path)(x)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outside = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])

    def error(found: Tensor) -> float:
        return float((found - wanted).abs().max() / wanted.abs().max())

    return {"error": error(outside), "again": error(again), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--net", choices=list(MODELS), help="this network only")
    options = parser.parse_args()
    warnings.simplefilter("error")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.net] if options.net else MODELS:
            try:
                row = compare(name, Path(folder) / "net.onnx")
            except TautError as error:
                print(f"{name:<24} {error}"[:120], file=sys.stderr, flush=True)
                failed += 1
                continue
            failed += max(row["error"], row["again"]) > LIMIT
            if options.json:
                print(json.dumps({"net": name, **row}), flush=True)
            else:
                print(f"{name:<24} runtime {row['error']:8.1e}   read again {row['again']:8.1e} "
                      f"{row['seconds']:7.1f} s", flush=True)  # fmt: skip
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
