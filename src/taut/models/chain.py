"""Building a network module by module while the shape of every value is known.

Every network of this room is an ``nn.Sequential``. What is not a plain row of layers is one of
two modules in it: :class:`Residual` and :class:`Concat`.
"""

from __future__ import annotations

from math import prod
from typing import Self

import torch
from torch import Tensor, nn

from taut.errors import ConfigError
from taut.models.activations import Activation, Maker, Shape, maker


class Residual(nn.Module):
    """``body(x) + shortcut(x)``; both map (B, C, H, W) to the same shape."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Add the two branches."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Concat(nn.Module):
    """The outputs of several branches of one input, joined along the channels, in order."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C1 + C2 + ..., H', W')."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Chain:
    """A row of modules under construction, and the shape of what leaves the last one.

    Each method appends a module and returns the chain itself.

    Attributes
    ----------
    shape
        (C, H, W) or (N,) of one value after the last module.
    modules
        The row so far.
    """

    def __init__(self, shape: Shape, activation: Maker, image: Shape) -> None:
        self.shape = shape
        self.modules: list[nn.Module] = []
        self._activation = activation
        self._image = image

    @classmethod
    def start(cls, input_shape: Shape, classes: int, activation: Activation) -> Chain:
        """Return an empty chain for images.

        Raises
        ------
        ConfigError
            A malformed shape, fewer than two classes, or an unknown activation.
        """
        if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
            raise ConfigError(
                f"input_shape must be three positive integers (channels, height, width), "
                f"got {input_shape!r}"
            )
        if classes < 2:
            raise ConfigError(f"classes must be at least 2, got {classes}")
        return cls(tuple(input_shape), maker(activation), tuple(input_shape))

    @property
    def channels(self) -> int:
        """Channels, or values of a flat one, after the last module."""
        return self.shape[0]

    def branch(self) -> Chain:
        """Return an empty chain that starts from the present shape."""
        return Chain(self.shape, self._activation, self._image)

    def module(self) -> nn.Module:
        """Return the modules of a branch as one; nothing at all is the identity."""
        if not self.modules:
            return nn.Identity()
        return self.modules[0] if len(self.modules) == 1 else nn.Sequential(*self.modules)

    def network(self) -> nn.Sequential:
        """Return the row as a network."""
        return nn.Sequential(*self.modules)

    def conv(
        self,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> Self:
        """Append a convolution ``filters@kernel/stride/padding``."""
        shape = self._window(filters, kernel, stride, padding, f"convolution {filters}@")
        return self._add(
            nn.Conv2d(
                self.channels, filters, kernel, stride, padding, groups=groups, bias=bias
            ),
            shape,
        )  # fmt: skip

    def norm(self) -> Self:
        """Append batch normalisation, two parameters per channel."""
        flat = len(self.shape) == 1
        return self._add(
            nn.BatchNorm1d(self.channels) if flat else nn.BatchNorm2d(self.channels), self.shape
        )

    def activate(self) -> Self:
        """Append the activation of this network, made for the present shape."""
        return self._add(self._activation(self.shape), self.shape)

    def max_pool(self, kernel: int, stride: int, padding: int = 0) -> Self:
        """Append a maximum over windows."""
        shape = self._window(self.channels, kernel, stride, padding, "pooling ")
        return self._add(nn.MaxPool2d(kernel, stride, padding), shape)

    def average_pool(self, kernel: int) -> Self:
        """Append an average over windows that do not overlap."""
        shape = self._window(self.channels, kernel, kernel, 0, "pooling ")
        return self._add(nn.AvgPool2d(kernel), shape)

    def adaptive_pool(self, size: int) -> Self:
        """Append an average over as many windows as give ``size`` x ``size`` values."""
        return self._add(nn.AdaptiveAvgPool2d(size), (self.channels, size, size))

    def flatten(self) -> Self:
        """Append ``nn.Flatten``."""
        return self._add(nn.Flatten(), (prod(self.shape),))

    def linear(self, units: int) -> Self:
        """Append a fully connected layer."""
        return self._add(nn.Linear(self.channels, units), (units,))

    def dropout(self, share: float) -> Self:
        """Append dropout; it does nothing in evaluation mode."""
        return self._add(nn.Dropout(share), self.shape)

    def add(self, body: Chain, shortcut: Chain) -> Self:
        """Append the sum of two branches."""
        return self._add(Residual(body.module(), shortcut.module()), body.shape)

    def concat(self, *branches: Chain) -> Self:
        """Append the outputs of branches, joined along the channels."""
        channels = sum(branch.channels for branch in branches)
        joined = Concat(*(branch.module() for branch in branches))
        return self._add(joined, (channels, *branches[0].shape[1:]))

    def _add(self, module: nn.Module, shape: Shape) -> Self:
        self.modules.append(module)
        self.shape = shape
        return self

    def _window(self, channels: int, kernel: int, stride: int, padding: int, what: str) -> Shape:
        extents = ((n + 2 * padding - kernel) // stride + 1 for n in self.shape[1:])
        shape = (channels, *extents)
        if min(shape) < 1:
            raise ConfigError(
                f"images of shape {self._image} are too small for this network: nothing is left "
                f"after its {what}{kernel}/{stride}/{padding}; use larger images or a network "
                "with more padding"
            )
        return shape
