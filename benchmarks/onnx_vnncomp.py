"""Networks of a VNN-COMP folder: taut's reading of each against ONNX Runtime.

python benchmarks/onnx_vnncomp.py FOLDER [--json] [--net PART_OF_PATH]

Every .onnx and .onnx.gz file below FOLDER is loaded and evaluated on random inputs in [0, 1], one
alone and the others in batches of 3; ONNX Runtime gets them one at a time. The error is the
largest difference over the largest output. The last column says whether the network can be
bounded, or why not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from taut.errors import TautError
from taut.formats.onnx import load_onnx
from taut.graph import trace

LIMIT = 1e-5
SAMPLES = 32


def reference(path: Path, x: torch.Tensor) -> np.ndarray:
    """Return ONNX Runtime's outputs, one row per sample."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in entry.shape]
    rows = [session.run(None, {entry.name: one.reshape(shape).numpy()})[0] for one in x]
    return np.stack([row.reshape(-1) for row in rows])


def compare(path: Path) -> dict[str, Any]:
    began = time.perf_counter()
    model = load_onnx(path)
    seconds = time.perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    x = torch.rand(SAMPLES, *model.input_shape, generator=generator, dtype=dtype)
    with torch.no_grad():
        found = torch.cat([model(x[:1]), *map(model, x[1:].split(3))]).flatten(1).numpy()
    wanted = reference(path, x)
    error = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))
    try:
        trace(model, model.input_shape)
        traced = "yes"
    except TautError as refusal:
        traced = str(refusal)
    return {"error": error, "seconds": seconds, "traced": traced,
            "input": list(model.input_shape), "output": list(model.output_shape)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--net", default="", help="only files whose path holds this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = [*options.folder.rglob("*.onnx"), *options.folder.rglob("*.onnx.gz")]
    files = [file for file in sorted(files) if options.net in str(file)]
    if not files:
        sys.exit(f"there is no .onnx file below {options.folder}")
    worst = 0.0
    for file in files:
        name = str(file.relative_to(options.folder))
        row = {"net": name, **compare(file)}
        worst = max(worst, row["error"])
        if options.json:
            print(json.dumps(row))
            continue
        shapes = f"{tuple(row['input'])} -> {tuple(row['output'])}"
        print(f"{name[-60:]:<60} {shapes:<26} {row['error']:8.1e} {row['seconds']:6.2f} s  "
              f"{row['traced'][:90]}", flush=True)  # fmt: skip
    print(f"{len(files)} networks, largest error {worst:.1e} (limit {LIMIT:g})", file=sys.stderr)
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
