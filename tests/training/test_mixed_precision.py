"""Training passes under bfloat16 autocast, on networks whose layers take ways of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_helpers import blobs

from taut.models import Cells
from taut.training import METHODS, EpsRamp, Settings, fit


def strided(frozen: bool) -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 6, 2, stride=2, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    net[2].weight.requires_grad_(not frozen)
    return net


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_under_autocast(name: str, frozen: bool) -> None:
    settings = Settings(
        epochs=1, eps=0.05, batch_size=10, device="cpu", threads=1, precision="bf16-mixed",
        schedule=EpsRamp("constant"),
    )  # fmt: skip
    net = strided(frozen)
    if name.startswith("cells"):
        net.insert(0, Cells(4))
    before = net[-1].weight.detach().clone()
    rows = fit(net, blobs(20), None, METHODS[name].method, settings).rows
    assert torch.isfinite(torch.tensor(list(rows[0]["loss"].values()))).all()
    assert not torch.equal(before, net[-1].weight)
    assert net[-1].weight.dtype == torch.float32
