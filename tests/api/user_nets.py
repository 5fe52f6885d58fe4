"""Networks as their users write them: nothing of taut in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sequential() -> nn.Module:
    torch.manual_seed(1)
    last = nn.Linear(8, 3)
    net = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), last)
    with torch.no_grad():  # every class wins somewhere
        last.bias -= net(torch.rand(200, 5)).mean(0)
    return net


class Residual(nn.Module):
    """Functional calls, a branch that joins again, batch norm, dropout and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 6 * 6, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x - 0.5)))
        x = F.relu(x + self.inner(x))
        return self.head(self.drop(torch.flatten(x, 1))) * 2.0


class Unsupported(nn.Module):
    """Holds an operation that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x))


def residual() -> nn.Module:
    torch.manual_seed(2)
    net = Residual()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-0.1, 0.1)
        net.norm.running_var.uniform_(0.5, 1.5)
    return net
