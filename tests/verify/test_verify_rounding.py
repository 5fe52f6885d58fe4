"""Proofs that float32 would get wrong by more than the logits show."""

from __future__ import annotations

import torch
from torch import nn

import taut


def test_what_cancels_is_computed_again_in_double_precision() -> None:
    """A neuron that is dead at the image, open in the box, and heavy swallows the others."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net[0].weight.data = torch.eye(2)
    net[0].bias.data = torch.tensor([-0.5, 0.0])
    net[2].weight.data = torch.tensor([[1e8, -1.0], [0.0, 0.0]])
    net[2].bias.data = torch.tensor([0.15, 0.0])
    x, y = torch.tensor([[0.5, 0.1]]), torch.tensor([0])
    broken = net(torch.tensor([[0.4, 0.2]])).detach()
    assert float(broken[0, 0] - broken[0, 1]) < 0
    box = taut.Box.around(x, 0.1)
    assert float(taut.margins(net, box, y, "ibp").detach()[0, 1]) > 0  # float32's answer
    result = taut.certify(net, x, y, eps=0.1, cascade=taut.Cascade(stages=("clean", "ibp")))
    assert result.verdicts[0].status != taut.Status.VERIFIED
