"""Networks written to ONNX files and read again, against ONNX Runtime."""

from __future__ import annotations

import copy
import gzip
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_helpers import layers, model_of, node, run, weights, write
from torch import nn

import taut
from taut.errors import ConfigError, ModelError, UnsupportedOperator
from taut.formats.onnx import load_onnx, save_onnx


class Residual(nn.Module):
    """A strided convolution, a residual block with batch norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(4 * 3 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.relu(self.norm(self.stem((x - 0.5) / 0.25)))
        return self.head(torch.relu(z + self.block(z)).flatten(1))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.relu())


def _stir(net: nn.Module) -> nn.Module:
    """Give batch normalisation statistics that differ from those of a fresh network."""
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3.0, generator=generator)
    return net


NETS = {
    "zoo": (lambda: taut.build_model("dm-small-p1", mean=[0.1], std=[0.3]), (1, 28, 28)),
    "zoo with batch norm": (lambda: taut.build_model("cnn7-narrow", (3, 8, 8), 4), (3, 8, 8)),
    "residual": (Residual, (2, 6, 6)),
    "vectors": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (6,)),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_written_computes_the_same(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, shape = NETS[name]
    torch.manual_seed(1)
    net = _stir(make())
    path = tmp_path / "net.onnx"
    before, weights_before = torch.get_rng_state(), copy.deepcopy(net.state_dict())
    save_onnx(net, path, shape)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(v, weights_before[k]) for k, v in net.state_dict().items())
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version >= 17
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    net.eval()
    loaded = load_onnx(path)
    assert loaded.input_shape == shape
    assert loaded.output_shape == tuple(net(torch.zeros(1, *shape)).shape[1:])
    for batch in (1, 3):
        x = torch.rand(batch, *shape)
        with torch.no_grad():
            wanted, again = net(x), loaded(x)
        (outside,) = run(path, x.numpy())
        limit = 1e-5 * float(wanted.abs().max())
        assert float((again - wanted).abs().max()) <= limit
        assert float((torch.from_numpy(outside) - wanted).abs().max()) <= limit


def test_float64_networks_stay_in_float64(tmp_path: Path) -> None:
    net = _stir(Residual()).double()
    path = tmp_path / "net.onnx"
    save_onnx(net, path, (2, 6, 6))
    x = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    (outside,) = ReferenceEvaluator(onnx.load(path)).run(None, {"input": x.numpy()})
    assert outside.dtype == np.float64
    with torch.no_grad():
        wanted = net.eval()(x)
        torch.testing.assert_close(torch.from_numpy(outside), wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(load_onnx(path)(x), wanted, rtol=1e-12, atol=1e-12)


def test_the_file_says_nothing_of_the_machine(tmp_path: Path) -> None:
    net = Head()
    save_onnx(net, tmp_path / "a.onnx", (6,))
    save_onnx(net, tmp_path / "b.onnx", [6])
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert __file__.encode() not in content
    assert b"test_onnx_save" not in content
    assert b"self.head" not in content


def test_what_was_read_can_be_written_again(tmp_path: Path) -> None:
    nodes = [
        node("Sub", "x m", "a"),
        node("Conv", "a k", "b"),
        node("Relu", "b", "c"),
        node("Reshape", "c s", "d"),
        node("MatMul", "d w", "y"),
    ]
    constants = weights(m=(3, 1, 1), k=(4, 3, 2, 2), s=[1, -1], w=(64, 4))
    first = write(tmp_path / "first.onnx", model_of(nodes, (1, 3, 5, 5), constants))
    loaded = load_onnx(first)
    save_onnx(loaded, tmp_path / "second.onnx")
    x = np.random.default_rng(0).random((3, 3, 5, 5), dtype=np.float32)
    wanted = np.concatenate(run(first, *x[:, None]))
    (found,) = run(tmp_path / "second.onnx", x)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    with pytest.raises(UnsupportedOperator, match="sign"):
        save_onnx(nn.Sequential(nn.Linear(2, 2), Sign()), path, (2,))
    with pytest.raises(ModelError, match="does not accept images of shape"):
        save_onnx(nn.Linear(2, 2), path, (3,))
    with pytest.raises(ConfigError, match="does not say what it takes; give input_shape"):
        save_onnx(nn.Linear(2, 2), path)
    assert path.read_bytes() == b"before"
    with pytest.raises(ConfigError, match="cannot be written"):
        save_onnx(nn.Linear(2, 2), tmp_path / "nowhere" / "net.onnx", (2,))
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


class Sign(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sign(x)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    nodes = [
        node("Conv", "x k b", "a"),
        node("BatchNormalization", "a s t m v", "b1"),
        node("Relu", "b1", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d w", "e", transB=1),
        node("Mul", "e two", "y"),
    ]
    constants = weights(k=(4, 3, 2, 2), b=(4,), s=(4,), t=(4,), m=(4,), w=(5, 64))
    constants |= {"v": np.ones(4, np.float32), "two": np.full(5, 2, np.float32)}
    return write(tmp_path / "net.onnx", model_of(nodes, (1, 3, 5, 5), constants))


def test_the_result_is_an_ordinary_module(file: Path) -> None:
    before = torch.get_rng_state()
    net = load_onnx(file)
    assert torch.equal(torch.get_rng_state(), before)
    assert layers(net) == ["Conv2d", "BatchNorm2d", "ReLU", "Linear"]
    assert "input_shape=(3, 5, 5), output_shape=(5,), opset=18" in repr(net)
    assert not any(module.training for module in net.modules())
    kinds = {
        name: isinstance(p, nn.Parameter) for name, p in net.state_dict(keep_vars=True).items()
    }
    assert kinds["network.conv2d1.weight"]
    assert kinds["network.linear1.weight"]
    assert not kinds["network.constant1"]
    x = torch.rand(2, 3, 5, 5)
    net(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        wanted = net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), wanted)
            assert other.input_shape == (3, 5, 5)
            next(other.parameters()).zero_()
        assert torch.equal(net(x), wanted)
        assert net.double()(x.double()).dtype == torch.float64


def test_compressed_files(file: Path) -> None:
    packed = file.with_name("net.onnx.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    x = torch.rand(2, 3, 5, 5)
    assert torch.equal(load_onnx(str(packed))(x), load_onnx(file)(x))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_files_precision_is_kept(dtype: type, tmp_path: Path) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((6, 3)).astype(dtype)}
    model = model_of([node("MatMul", "x w", "y")], (1, 6), constants, dtype=dtype)
    net = load_onnx(write(tmp_path / "net.onnx", model))
    (weight,) = net.parameters()
    assert torch.equal(weight.detach().T, torch.from_numpy(constants["w"]))
    x = torch.rand(2, 6).to(weight.dtype)
    assert net(x).dtype == weight.dtype
