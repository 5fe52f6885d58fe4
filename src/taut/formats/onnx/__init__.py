"""ONNX in and out: :func:`load_onnx` and :func:`save_onnx`.

Both need the package ``onnx``, which ``pip install 'taut[onnx]'`` brings along.
"""

from taut.formats.onnx.layout import accepting_images
from taut.formats.onnx.load import load_onnx
from taut.formats.onnx.network import OnnxNetwork
from taut.formats.onnx.runtime import runtime
from taut.formats.onnx.save import save_onnx

__all__ = ["OnnxNetwork", "accepting_images", "load_onnx", "runtime", "save_onnx"]
