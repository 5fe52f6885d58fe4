"""ONNX files in `taut.load_model` and on the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from onnx_helpers import model_of, node, weights, write
from torch import nn
from typer.testing import CliRunner

import taut
from taut.cli.app import app
from taut.cli.source import open_source
from taut.errors import ConfigError
from taut.formats.onnx import accepting_images, load_onnx

SHAPES = {
    "flat": (1, 784),
    "column": (1, 784, 1),
    "image": (1, 1, 28, 28),
    "channels last": (1, 28, 28, 1),
    "vector": (784,),
}


def digits_net(folder: Path, shape: tuple[int, ...]) -> Path:
    nodes = [node("Reshape", "x s", "a"), node("MatMul", "a w", "b"), node("Relu", "b", "c"),
             node("MatMul", "c v", "y")]  # fmt: skip
    constants = weights(s=[1, 784], w=(784, 8), v=(8, 10))
    return write(folder / "digits.onnx", model_of(nodes, shape, constants))


def test_load_model_takes_onnx_files(tmp_path: Path) -> None:
    path = digits_net(tmp_path, (1, 784))
    x = torch.rand(3, 784)
    assert torch.equal(taut.load_model(path)(x), load_onnx(path)(x))
    packed = tmp_path / "digits.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert torch.equal(taut.load_model(str(packed))(x), load_onnx(path)(x))
    with pytest.raises(
        ConfigError, match="holds a network, not weights alone; leave out the model"
    ):
        taut.load_model(path, nn.Linear(784, 10))


@pytest.mark.parametrize("name", SHAPES)
def test_images_reach_networks_of_any_layout(name: str, tmp_path: Path) -> None:
    path = digits_net(tmp_path, SHAPES[name])
    source = open_source(path, "cpu")
    x = torch.rand(3, 1, 28, 28)
    wanted = load_onnx(digits_net(tmp_path, (1, 784)))(x.flatten(1))
    torch.testing.assert_close(source.model(x), wanted, rtol=1e-4, atol=1e-4)
    assert source.architecture["classes"] == 10
    traced = taut.trace(source.model, (1, 28, 28))
    torch.testing.assert_close(traced.instance()(x), wanted, rtol=1e-4, atol=1e-4)


def test_channels_go_to_the_end_where_the_network_has_them_there(tmp_path: Path) -> None:
    model = model_of([node("Flatten", "x", "y")], (1, 4, 5, 3))
    net, shape = accepting_images(load_onnx(write(tmp_path / "net.onnx", model)))
    assert shape == (3, 4, 5)
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(net(x), x.permute(0, 2, 3, 1).flatten(1))


def test_the_name_tells_two_files_apart(tmp_path: Path) -> None:
    first = open_source(digits_net(tmp_path, (1, 784)), "cpu").architecture["name"]
    model = model_of(
        [node("Abs", "x", "a"), node("MatMul", "a w", "y")], (1, 784), weights(w=(784, 10))
    )
    second = open_source(write(tmp_path / "digits.onnx", model), "cpu").architecture["name"]
    assert first.startswith("custom:digits-")
    assert second.startswith("custom:digits-")
    assert first != second


def test_bounds_and_certify_of_an_onnx_file(tmp_path: Path) -> None:
    path = digits_net(tmp_path, (1, 784, 1))
    common = ["--data", "mnist-5k", "--first", "5", "--eps", "0.001", "--json", "--threads", "1"]
    found = CliRunner().invoke(app, ["bounds", str(path), *common, "--method", "ibp"])
    assert found.exit_code == 0, found.output
    figures = json.loads(found.stdout)
    assert figures["model"].startswith("digits-")
    images = taut.load_data("mnist-5k", "test")
    x, y = images.pixels(slice(0, 5)), images.labels[:5]
    net = load_onnx(path)
    box = taut.Box.around(x.reshape(5, 784, 1), 0.001)
    margins = taut.margins(net, box, y, "ibp").detach().amin(1)
    assert figures["methods"][0]["min_margin"] == pytest.approx(float(margins.min()), rel=1e-4)
    found = CliRunner().invoke(app, ["certify", str(path), *common, "--steps", "2"])
    assert found.exit_code == 0, found.output
    right = (net(x.reshape(5, 784, 1)).argmax(1) == y).double().mean()
    assert json.loads(found.stdout)["natural_accuracy"] == pytest.approx(float(right))


@pytest.mark.parametrize("name", ["nosuch.onnx", "nosuch.onnx.gz"])
def test_a_missing_file_is_one_line(name: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["bounds", str(tmp_path / name), "--data", "mnist-5k"])
    assert found.exit_code == 2
    assert found.stderr == f"error: there is no ONNX file {tmp_path / name}; check the path\n"


def test_another_number_of_pixels_is_refused(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x w", "y")], (1, 100), weights(w=(100, 10)))
    path = write(tmp_path / "net.onnx", model)
    found = CliRunner().invoke(app, ["bounds", str(path), "--data", "mnist-5k", "--eps", "0.1"])
    assert found.exit_code == 2
    assert "images of shape 1 x 28 x 28 and the network takes 100" in found.stderr
