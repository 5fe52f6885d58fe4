"""What :func:`~taut.formats.onnx.load_onnx` returns."""

from __future__ import annotations

from torch import Tensor, fx, nn


class OnnxNetwork(nn.Module):
    """A network of an ONNX file, ``(B, *input_shape) -> (B, *output_shape)`` for any batch.

    ``network`` is a ``torch.fx.GraphModule`` of ordinary layers; ``print(model.network)`` shows
    the layers, and ``print(model.network.code)`` how they are joined.

    Attributes
    ----------
    input_shape
        Shape of one input, without the batch axis.
    output_shape
        Shape of one output, without the batch axis; ``(classes,)`` for a classifier.
    opset
        Version of the ONNX operators the file was written in.

    """

    def __init__(
        self,
        network: fx.GraphModule,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        opset: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.input_shape = input_shape
        self.output_shape = output_shape
        self.opset = opset

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (B, *input_shape) to outputs (B, *output_shape)."""
        found: Tensor = self.network(x)
        return found

    def extra_repr(self) -> str:
        """Show the shapes in ``print(model)``."""
        return (
            f"input_shape={self.input_shape}, output_shape={self.output_shape}, opset={self.opset}"
        )
