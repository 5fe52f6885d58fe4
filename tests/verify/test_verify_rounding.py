"""Proofs that float32 would get wrong by more than the logits show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import taut
from taut.verify.precision import rounding


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


@pytest.mark.parametrize("stages", [("clean", "ibp"), ("clean", "ibp", "branch")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_cancels_inside_the_network_is_seen(
    stages: tuple[str, ...], dtype: torch.dtype
) -> None:
    """relu(x + m) - m is x in real arithmetic, and multiples of its last bits in floating point."""
    shift = 1e8 if dtype == torch.float32 else 1e17
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).to(dtype)
    net[0].weight.data = torch.tensor([[20.0], [40.0]], dtype=dtype)
    net[0].bias.data = torch.tensor([shift, 0.0], dtype=dtype)
    net[2].weight.data = torch.tensor([[1.0, 0.1], [0.0, 0.0]], dtype=dtype)
    net[2].bias.data = torch.tensor([-shift, 8.0], dtype=dtype)
    x, y = torch.tensor([[0.6]], dtype=dtype), torch.tensor([0])
    # z_0 - z_1 = 20 x + 4 x - 8 is negative below 1/3, and positive at the image
    cascade = taut.Cascade(stages=stages, timeout=2.0)
    (verdict,) = taut.certify(net, x, y, eps=0.3, cascade=cascade).verdicts
    assert verdict.status != taut.Status.VERIFIED


def test_the_estimate_covers_the_rounding_of_random_networks() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3)
        )
        for weight in net.parameters():
            weight.data.mul_(10.0 ** float(torch.rand(()) * 4 - 1))
        x = torch.rand(50, 6)
        box = taut.Box.around(x, 0.0)
        far = rounding(taut.trace(net, (6,)).instance(), box)
        single = net(x).double()
        exact = net.double()(x.double())
        assert bool(((single - exact).abs() <= far).all())
