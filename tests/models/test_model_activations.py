"""Other activations in the place of ReLU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from taut import models

NAMES = list(models.MODELS)
KINDS = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
ALL = (*KINDS.values(), nn.ELU)


class Ceiling(nn.Module):
    """``min(max(x, 0), c)`` with a ceiling c for each neuron."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.ceiling = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == self.ceiling.shape  # no broadcasting
        return torch.minimum(x.relu(), self.ceiling)


def activations(net: nn.Module) -> list[type]:
    return [type(m) for m in net.modules() if isinstance(m, ALL)]


def test_the_names() -> None:
    assert set(models.ACTIVATIONS) >= set(KINDS)
    x = torch.linspace(-3, 3, 13)
    for name, expected in {
        "relu": x.clamp(min=0),
        "leaky-relu": torch.where(x < 0, 0.01 * x, x),
        "sigmoid": 1 / (1 + torch.exp(-x)),
        "tanh": 1 - 2 / (1 + torch.exp(2 * x)),
    }.items():
        torch.testing.assert_close(models.ACTIVATIONS[name]((13,))(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_of_a_network_is_exchanged(name: str) -> None:
    own = KINDS[models.MODELS[name].activation]
    count = len(activations(models.small(name)))
    assert activations(models.small(name)) == [own] * count
    assert activations(models.small(name, activation="leaky-relu")) == [nn.LeakyReLU] * count
    assert activations(models.small(name, activation=nn.ELU)) == [nn.ELU] * count


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_can_have_a_parameter_for_each_neuron(name: str) -> None:
    net = models.small(name, activation=Ceiling)
    assert net(torch.rand(2, *models.MODELS[name].small_shape)).shape == (2, 3)
    plain, shaped = models.size(name), models.size(name, activation=Ceiling)
    assert shaped.activations == plain.activations
    assert shaped.parameters - plain.parameters == plain.activations


def test_a_class_of_torch_is_made_without_arguments() -> None:
    """``nn.ReLU`` given a shape would take it for the order to work in place."""
    for given in (nn.ReLU, "relu"):
        assert [m.inplace for m in models.build("fc5", activation=given) if type(m) is nn.ReLU] == [
            False,
            False,
        ]
    prelu = models.build("fc5", activation=nn.PReLU)
    assert [m.num_parameters for m in prelu if isinstance(m, nn.PReLU)] == [1, 1]


def test_build_and_factory_take_the_same() -> None:
    built = models.build("cnn7", (3, 8, 8), 4, activation="tanh")
    made = models.cnn7((3, 8, 8), 4, activation=nn.Tanh)
    assert repr(built) == repr(made)
    assert activations(built) == [nn.Tanh] * 6
    assert activations(models.build("fc3-sigmoid", activation="relu")) == [nn.ReLU]
