"""Weights: exact, atomic, refused when they belong elsewhere; digests that see every bit."""

import hashlib
import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from store_helpers import ON_DISK
from torch import nn

from taut._version import __version__
from taut.errors import ModelError
from taut.store import hash_weights, load_weights, read_architecture, read_weights, save_weights

ARCHITECTURE = {"name": "tiny", "input_shape": [1, 2, 2], "classes": 3}


def network(seed=0, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3)
    )


def equal(a, b):
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, network().state_dict(), ARCHITECTURE)
    return path


def test_weights_come_back_to_the_bit(saved):
    target = network(seed=1)
    assert not equal(target.state_dict(), network().state_dict())
    load_weights(saved, target)
    assert equal(target.state_dict(), network().state_dict())


def test_the_file_is_plain_safetensors_with_its_metadata(saved):
    with safe_open(saved, framework="pt") as file:
        assert set(file.keys()) == set(network().state_dict())
        metadata = file.metadata()
    assert metadata["taut"] == __version__
    assert json.loads(metadata["architecture"]) == ARCHITECTURE
    assert set(metadata) == {"architecture", "taut"}


def test_equal_weights_give_equal_bytes(tmp_path, saved):
    state = dict(reversed(network().state_dict().items()))
    for i in range(8):
        save_weights(tmp_path / f"{i}.safetensors", state, dict(reversed(ARCHITECTURE.items())))
        assert (tmp_path / f"{i}.safetensors").read_bytes() == saved.read_bytes()
    (length,) = struct.unpack_from("<Q", saved.read_bytes())
    assert length % 8 == 0


def test_the_architecture_comes_back_read_only(tmp_path):
    path = tmp_path / "m.safetensors"
    full = {**ARCHITECTURE, "mean": (0.5,), "std": [0.25], "width": 7}
    save_weights(path, network().state_dict(), full)
    found = read_architecture(path)
    assert dict(found) == {**full, "input_shape": (1, 2, 2), "std": (0.25,)}
    with pytest.raises(TypeError):
        found["name"] = "other"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"input_shape": []}, "input_shape"),
        ({"input_shape": [1, 0]}, "input_shape"),
        ({"input_shape": 4}, "input_shape"),
        ({"classes": 0}, "classes"),
        ({"classes": True}, "classes"),
        ({"mean": [0.5]}, "std"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "mean"),
        ({"mean": [0.5], "std": [0.0]}, "std"),
        ({"mean": [float("nan")], "std": [1.0]}, "mean"),
    ],
)
def test_an_incomplete_architecture_is_refused(tmp_path, change, word):
    with pytest.raises(ModelError, match=word):
        save_weights(tmp_path / "m", network().state_dict(), {**ARCHITECTURE, **change})
    assert list(tmp_path.iterdir()) == []


def test_tied_and_strided_tensors_are_stored_whole(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"a": base, "b": base, "view": base[1:3], "columns": base.t(), "row": base[:, 2]}
    path = tmp_path / "m.safetensors"
    save_weights(path, state, ARCHITECTURE)
    found = read_weights(path)
    assert equal(found, dict(sorted(state.items())))
    assert path.stat().st_size < 4 * (24 * 3 + 12 + 4) + 1000

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(path, model.state_dict(), ARCHITECTURE)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    load_weights(path, other)
    assert equal(other.state_dict(), model.state_dict())


def test_loaded_weights_do_not_hang_on_the_file(saved):
    found = read_weights(saved)
    before = {name: tensor.clone() for name, tensor in found.items()}
    with open(saved, "rb+") as file:
        file.write(bytes(saved.stat().st_size))
    assert equal(found, before)
    for tensor in found.values():
        tensor.zero_()


def without(name):
    return {key: value for key, value in network().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (without("1.bias"), ["no tensor '1.bias'", "another network"]),
        ({**network().state_dict(), "9.x": torch.zeros(1)}, ["unexpected tensor '9.x'", "another"]),
        (network(width=6).state_dict(), ["'1.bias' has shape (6,)", "(5,)", "another network"]),
        (network().double().state_dict(), ["'1.bias' is torch.float64", "model.double()"]),
        ({**network().state_dict(), "1.bias": torch.zeros(5, dtype=torch.int64)}, ["exactly"]),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_of_another_network_are_refused_by_name(tmp_path, state, words, ending):
    path = tmp_path / f"m.{ending}"
    if ending == "pt":
        torch.save(state, path)
    else:
        save_weights(path, state, ARCHITECTURE)
    model = network(seed=1)
    with pytest.raises(ModelError) as caught:
        load_weights(path, model)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert equal(model.state_dict(), network(seed=1).state_dict())


def test_half_precision_widens_exactly(tmp_path):
    half = network().half()
    save_weights(tmp_path / "m.safetensors", half.state_dict(), ARCHITECTURE)
    model = network(seed=1)
    load_weights(tmp_path / "m.safetensors", model)
    assert equal(model.state_dict(), half.float().state_dict())


@pytest.mark.parametrize("keep", [0, 3, 8, 20, 200, -40, -1])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_truncated_file_is_refused(tmp_path, keep, ending):
    path = tmp_path / f"m.{ending}"
    if ending == "pt":
        torch.save(network().state_dict(), path)
    else:
        save_weights(path, network().state_dict(), ARCHITECTURE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"truncated|no PyTorch file"):
        load_weights(path, network())


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" + b"x" * 99]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    for read in (read_weights, read_architecture):
        with pytest.raises(ModelError, match=r"no safetensors file .* again"):
            read(path)


def test_a_missing_file_is_refused(tmp_path):
    for name in ("m.safetensors", "m.pt"):
        for read in (read_weights, read_architecture):
            with pytest.raises(ModelError, match="no weights file"):
                read(tmp_path / name)


@given(data=st.data())
@ON_DISK
def test_damage_never_escapes_as_another_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("weights")
    ending = data.draw(st.sampled_from(["safetensors", "pt"]))
    path = folder / f"m.{ending}"
    if ending == "pt":
        torch.save(network().state_dict(), path)
    else:
        save_weights(path, network().state_dict(), ARCHITECTURE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        outcome = str(sorted(read_weights(path)))
    except ModelError as error:
        outcome = str(error)
    assert outcome != "[]"
    assert "\n" not in outcome


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model_state_dict": s}],
)
def test_pytorch_files_are_read(tmp_path, wrap):
    torch.save(wrap(network().state_dict()), tmp_path / "m.pth")
    model = network(seed=1)
    load_weights(tmp_path / "m.pth", model)
    assert equal(model.state_dict(), network().state_dict())


class Bomb:
    def __reduce__(self):
        return print, ("code in a weights file ran",)


def test_code_in_a_pytorch_file_is_not_run(tmp_path, capsys):
    torch.save({"a": torch.zeros(1), "b": Bomb()}, tmp_path / "new.pt")
    torch.save([Bomb()], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(network(), tmp_path / "module.pt")
    for name in ("new.pt", "old.pt", "module.pt"):
        with pytest.raises(ModelError, match=r"model\.state_dict\(\)"):
            read_weights(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{}, [1], {"a": 1}, {"state_dict": {}}, torch.zeros(2)])
def test_a_pytorch_file_without_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="state dict"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("value", [3, "x", torch.zeros(2, 2).to_sparse()])
def test_only_dense_tensors_are_weights(tmp_path, value):
    with pytest.raises(ModelError, match="'odd'"):
        save_weights(tmp_path / "m", {"odd": value}, ARCHITECTURE)
    with pytest.raises(ModelError, match="'odd'"):
        hash_weights({"odd": value})


def test_the_digest_is_the_one_the_page_describes():
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(7, dtype=torch.int64)}
    n = lambda k: struct.pack("<Q", k)  # noqa: E731
    stream = (
        n(1) + b"a" + n(5) + b"int64" + n(0) + n(8) + struct.pack("<q", 7)
        + n(1) + b"b" + n(7) + b"float32" + n(2) + n(1) + n(2)
        + n(8) + struct.pack("<ff", 1.5, -2.0)
    )  # fmt: skip
    assert hash_weights(state) == hashlib.sha256(stream).hexdigest()


def test_the_digest_sees_content_and_nothing_else():
    state = network().state_dict()
    digest = hash_weights(state)
    moved = {
        key: value.clone().t().contiguous().t() if value.dim() == 2 else value
        for key, value in reversed(state.items())
    }
    assert hash_weights(moved) == digest
    assert hash_weights(dict(network().named_parameters()) | state) == digest
    flipped = {**state, "1.bias": state["1.bias"].clone()}
    flipped["1.bias"].view(torch.int32)[0] ^= 1
    changes = [
        flipped,
        {**state, "1.bias": state["1.bias"].double()},
        {**state, "1.bias": state["1.bias"][None]},
        {**without("1.bias"), "1.bia": state["1.bias"]},
        without("1.bias"),
        {**state, "3.bias": -torch.zeros(3)},
        {**state, "3.bias": torch.zeros(3)},
    ]
    digests = [hash_weights(change) for change in changes]
    assert len({digest, *digests}) == len(changes) + 1


@given(
    dtype=st.sampled_from(
        [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.complex64, torch.int8]
    ),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
@ON_DISK
def test_every_type_and_shape_round_trips(tmp_path_factory, dtype, shape):
    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    state = {"x": torch.randn(shape).to(dtype)}
    save_weights(path, state, ARCHITECTURE)
    assert equal(read_weights(path), state)
    assert hash_weights(read_weights(path)) == hash_weights(state)
