"""Train image classifiers whose robustness can be proved, and prove it.

Prove that a network keeps its answers on every image within eps of these, or find where it
does not:

    >>> import torch, taut
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.rand(5, 4)
    >>> result = taut.certify(net, x, net(x).argmax(1), eps=0.001)
    >>> result.images
    5
    >>> taut.bounds(net, taut.Box.around(x, 0.1), method="crown").lower.shape
    torch.Size([5, 3])

The names below are the public interface; the subpackages hold the parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taut._version import __version__

# `bounds` is a subpackage and a function. Importing the functions imports the subpackage
# first; the name is bound to the function after that, and stays so, because a subpackage is
# set as an attribute only when it is imported for the first time.
from taut.api.bounding import bounds, margins
from taut.errors import TautError
from taut.graph import trace
from taut.operators import Bounds
from taut.region import Box, LpBall

if TYPE_CHECKING:
    from taut.api.cells import cell_accuracy
    from taut.api.fitting import fit
    from taut.api.loading import build_model, load_data, load_model
    from taut.api.searching import attack
    from taut.api.tuning import Tuning, tune
    from taut.attacks import FGSM, PGD, Flips
    from taut.data import ImageSet
    from taut.formats.onnx import load_onnx, save_onnx
    from taut.training import FitResult, Settings
    from taut.verify import Cascade, Certification, Status, Verdict, certify

_ROOMS = {
    "taut.api.cells": ("cell_accuracy",),
    "taut.api.fitting": ("fit",),
    "taut.api.loading": ("build_model", "load_data", "load_model"),
    "taut.api.searching": ("attack",),
    "taut.api.tuning": ("Tuning", "tune"),
    "taut.attacks": ("FGSM", "PGD", "Flips"),
    "taut.data": ("ImageSet",),
    "taut.formats.onnx": ("load_onnx", "save_onnx"),
    "taut.training": ("FitResult", "Settings"),
    "taut.verify": ("Cascade", "Certification", "Status", "Verdict", "certify"),
}
_LATER = {name: room for room, names in _ROOMS.items() for name in names}
"""Names that are imported when they are first asked for: not every use needs them."""

__all__ = [
    "FGSM",
    "PGD",
    "Bounds",
    "Box",
    "Cascade",
    "Certification",
    "FitResult",
    "Flips",
    "ImageSet",
    "LpBall",
    "Settings",
    "Status",
    "TautError",
    "Tuning",
    "Verdict",
    "__version__",
    "attack",
    "bounds",
    "build_model",
    "cell_accuracy",
    "certify",
    "fit",
    "load_data",
    "load_model",
    "load_onnx",
    "margins",
    "save_onnx",
    "trace",
    "tune",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module 'taut' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_LATER[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
