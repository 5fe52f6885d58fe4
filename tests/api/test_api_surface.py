"""The names of `taut`: what is there, what it costs to import, what types it shows."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import FunctionType, ModuleType

import pytest

import taut
import taut.bounds

NAMES = {
    "Bounds", "Box", "Cascade", "Certification", "FGSM", "FitResult", "Flips", "ImageSet", "LpBall",
    "PGD", "Settings", "Status", "TautError", "Tuning", "Verdict", "__version__", "attack",
    "bounds", "build_model", "cell_accuracy", "certify", "fit", "load_data", "load_model",
    "load_onnx", "margins", "save_onnx", "trace", "tune",
}  # fmt: skip

HEAVY = ("lightning_fabric", "pydantic", "rich", "typer", "pooch", "plotly", "tensorboardX",
         "safetensors", "jinja2", "platformdirs", "taut.training", "taut.store", "taut.report",
         "taut.cli")  # fmt: skip

IMPORTS = """
import sys, time
begin = time.process_time(); import torch
middle = time.process_time(); import taut
end = time.process_time()
print(middle - begin, end - middle, *(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_the_public_names() -> None:
    assert set(taut.__all__) == NAMES
    assert set(dir(taut)) >= NAMES
    for name in NAMES:
        assert getattr(taut, name) is not None
    for name in NAMES - {"__version__"}:
        assert getattr(taut, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        taut.nosuch  # type: ignore[attr-defined] # noqa: B018


def test_the_names_are_those_of_their_rooms() -> None:
    for room, names in {
        "taut.verify": ("certify", "Cascade", "Certification", "Status", "Verdict"),
        "taut.region": ("Box", "LpBall"),
        "taut.formats.onnx": ("load_onnx", "save_onnx"),
        "taut.attacks": ("PGD", "FGSM", "Flips"),
        "taut.training": ("Settings", "FitResult"),
        "taut.graph": ("trace",),
        "taut.bounds": ("Bounds",),
        "taut.errors": ("TautError",),
        "taut.data": ("ImageSet",),
    }.items():
        for name in names:
            assert getattr(taut, name) is getattr(importlib.import_module(room), name)
    assert taut.load_data is importlib.import_module("taut.data").load
    assert taut.build_model is importlib.import_module("taut.models").build


def test_bounds_is_a_function_and_a_subpackage() -> None:
    assert isinstance(taut.bounds, FunctionType)
    from taut.bounds import METHODS
    from taut.bounds.methods import IBP

    assert isinstance(METHODS["ibp"], IBP)
    importlib.import_module("taut.bounds.interval")
    importlib.import_module("taut.bounds")
    assert isinstance(taut.bounds, FunctionType)
    assert isinstance(sys.modules["taut.bounds"], ModuleType)


def test_the_order_of_imports_does_not_matter() -> None:
    program = "import taut.bounds.methods; import taut; print(type(taut.bounds).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "function\n"


def test_importing_is_cheap() -> None:
    """As a share of importing torch: of each the quickest of several, since noise only adds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone, more = [], []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS, *HEAVY], env=environment,
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        torch_seconds, taut_seconds, *heavy = done.stdout.split()
        assert heavy == []
        alone.append(float(torch_seconds))
        more.append(float(taut_seconds))
    assert min(more) / min(alone) <= 0.25
