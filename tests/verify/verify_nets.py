"""Small random networks and images for the tests of this room."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHAPE = (2, 5, 5)
CLASSES = 4


class Residual(nn.Module):
    """A branching model in functional form, as a user would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(100, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(h + self.second(h))
        return self.last(h.flatten(1))


def make(kind: str, seed: int = 0) -> nn.Module:
    """A random network; its weights are thrice the default, so that many neurons bend."""
    torch.manual_seed(seed)
    if kind == "residual":
        net: nn.Module = Residual()
    elif kind == "dense":
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(50, 16),
            nn.ReLU(),
            nn.Linear(16, 12),
            nn.ReLU(),
            nn.Linear(12, CLASSES),
        )
    else:
        net = nn.Sequential(
            nn.Conv2d(2, 6, 3, 2, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )
        net[1].running_mean.normal_(0, 0.3)
        net[1].running_var.uniform_(0.3, 2)
    for parameter in net.parameters():
        parameter.data.mul_(3 if parameter.dim() > 1 else 1)
    return net


KINDS = ("dense", "convolution", "residual")


def images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Random images, a fifth of the pixels at the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator)
    return torch.where(torch.rand(x.shape, generator=generator) < 0.2, x.round(), x)


def predictions(net: nn.Module, x: Tensor) -> Tensor:
    training = net.training
    with torch.no_grad():
        y = net.eval()(x).argmax(1)
    net.train(training)
    return y


def labels(net: nn.Module, x: Tensor) -> Tensor:
    """The model's own predictions, but every sixth one wrong."""
    y = predictions(net, x)
    y[::6] = (y[::6] + 1) % CLASSES
    return y
