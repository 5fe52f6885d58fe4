"""The normalisation layer."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from taut import models

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def test_normalises_each_channel():
    x = torch.rand(4, 3, 5, 6)
    out = models.Normalise(MEAN, STD)(x)
    for channel in range(3):
        expected = (x[:, channel] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(out[:, channel], expected)


def test_constants_are_saved_and_follow_the_model_but_are_not_trained():
    layer = models.Normalise(MEAN, STD)
    assert list(layer.parameters()) == []
    assert sorted(layer.state_dict()) == ["mean", "std"]
    assert layer.double()(torch.rand(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64
    other = models.Normalise((0.0,) * 3, (1.0,) * 3)
    other.load_state_dict(layer.state_dict())
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(other(x), layer.float()(x))


def test_build_prepends_it():
    torch.manual_seed(0)
    plain = models.build("dm-small-p1", (3, 32, 32))
    torch.manual_seed(0)
    normed = models.build("dm-small-p1", (3, 32, 32), mean=MEAN, std=STD)
    assert type(normed) is nn.Sequential
    assert isinstance(normed[0], models.Normalise)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(normed(x), plain(normed[0](x)))
    assert not torch.allclose(normed(x), plain(x))


@given(st.floats(-2, 2), st.floats(0.01, 10))
def test_it_is_inverted_by_its_constants(mean, std):
    x = torch.linspace(0, 1, 7, dtype=torch.float64).reshape(1, 1, 1, 7)
    out = models.Normalise([mean], [std]).double()(x)
    back = out * torch.tensor(std) + torch.tensor(mean)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=0)
