"""`taut.load_model`: networks of the zoo by themselves, others into the caller's module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from user_nets import residual

import taut
from taut.api.loading import architecture_of
from taut.errors import ModelError, RunError
from taut.models import MODELS
from taut.store import RunFolder, save_weights

SHAPES = {name: entry.input_shape for name, entry in MODELS.items()}
TWINS = {"dm-large": {"cnn7-nobn"}, "cnn7-nobn": {"dm-large"}}
"""Names of the same layers."""


@pytest.mark.parametrize("name", ["dm-small-p1", "dm-small-crown8-16", "dm-medium-p2", "cnn7"])
@pytest.mark.parametrize("normalised", [False, True])
def test_a_network_of_the_zoo_is_recognised(name: str, normalised: bool) -> None:
    shape, constants = SHAPES[name], {}
    if normalised:
        constants = {"mean": [0.4] * shape[0], "std": [0.2] * shape[0]}
    with torch.device("meta"):
        net = taut.build_model(name, shape, 7)
    if normalised:
        net = nn.Sequential(taut.models.Normalise([0.4] * shape[0], [0.2] * shape[0]), *net)
    found = architecture_of(net, shape, 7)
    assert found["name"] == name
    assert (found["input_shape"], found["classes"]) == (list(shape), 7)
    for key, value in constants.items():
        assert found[key] == pytest.approx(value)


def test_what_only_looks_alike_is_custom() -> None:
    net = taut.build_model("dm-small-crown8-16")
    assert architecture_of(net, (1, 28, 28), 10)["name"] == "dm-small-crown8-16"
    wider = nn.Sequential(*net[:-1], nn.Linear(256, 11))
    assert architecture_of(wider, (1, 28, 28), 10)["name"] == "custom:Sequential"
    assert architecture_of(residual(), (2, 6, 6), 4)["name"] == "custom:Residual"
    assert architecture_of(nn.Sequential(nn.Linear(5, 2)), (5,), 2)["name"] == "custom:Sequential"


def test_weights_come_back_as_the_network_they_are_of(tmp_path: Path) -> None:
    net = taut.build_model("dm-small-crown8-16", (3, 12, 12), 4, mean=[0.5] * 3, std=[0.2] * 3)
    path = tmp_path / "net.safetensors"
    save_weights(path, net.state_dict(), architecture_of(net, (3, 12, 12), 4))
    loaded = taut.load_model(path)
    assert not loaded.training
    assert repr(loaded) == repr(net)
    x = torch.rand(2, 3, 12, 12)
    assert torch.equal(loaded(x), net(x))


def test_a_network_of_ones_own_is_given(tmp_path: Path) -> None:
    net, path = residual(), tmp_path / "net.safetensors"
    save_weights(path, net.state_dict(), architecture_of(net, (2, 6, 6), 4))
    with pytest.raises(ModelError, match=r"the network 'Residual'.*taut.load_model\(path, model\)"):
        taut.load_model(path)
    other = type(net)()
    assert taut.load_model(path, other) is other
    assert not other.training
    assert all(torch.equal(v, net.state_dict()[n]) for n, v in other.state_dict().items())
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert torch.equal(taut.load_model(tmp_path / "net.pt", type(net)()).head.bias, net.head.bias)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder and no weights file"):
        taut.load_model(tmp_path / "nothing")
    with pytest.raises(RunError, match="is no run folder"):
        taut.load_model(tmp_path)
    RunFolder.create(tmp_path / "a", "train", {}, 0).close()
    with pytest.raises(RunError, match="taut train --resume"):
        taut.load_model(tmp_path / "a")
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="no safetensors file or is truncated"):
        taut.load_model(tmp_path / "x.safetensors")
    other, path = taut.build_model("dm-small-crown8-16"), tmp_path / "y.safetensors"
    wrong = {"name": "dm-small-p1", "input_shape": [1, 28, 28], "classes": 10}
    save_weights(path, other.state_dict(), wrong)
    with pytest.raises(ModelError, match="of another network"):
        taut.load_model(path)
