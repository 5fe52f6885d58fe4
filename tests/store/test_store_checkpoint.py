"""Checkpoints: all of a training state comes back to the bit, damage is an error."""

import copy
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import IN_MEMORY, ON_DISK, same
from torch import nn

from taut.errors import RunError
from taut.store import load_weights, read_checkpoint, write_checkpoint
from taut.store.checkpoint import CHECKPOINT_FORMAT
from taut.store.hashing import hash_state


def training(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)
    )
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def steps(model, optimiser, count):
    for _ in range(count):
        loss = model(torch.randn(16, 4)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def state_of(model, optimiser, epoch):
    return {
        "epoch": epoch,
        "weights": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": {"step": 12, "eps": 0.1, "done": False, "name": "smooth", "parts": (1, None)},
        "generators": {"torch": torch.get_rng_state(), "python": random.getstate()},
    }


def test_training_goes_on_to_the_bit(tmp_path):
    path = tmp_path / "checkpoint.pt"
    model, optimiser = training(0)
    steps(model, optimiser, 3)
    write_checkpoint(path, state_of(model, optimiser, 1), 1)
    steps(model, optimiser, 3)
    expected = copy.deepcopy(model.state_dict())
    drawn = random.random()

    other, other_optimiser = training(1)
    random.seed(5)
    found = read_checkpoint(path)
    assert found.metrics_rows == 1
    other.load_state_dict(found.state["weights"])
    other_optimiser.load_state_dict(found.state["optimiser"])
    torch.set_rng_state(found.state["generators"]["torch"])
    random.setstate(found.state["generators"]["python"])
    random.random()
    random.setstate(found.state["generators"]["python"])
    steps(other, other_optimiser, 3)
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    assert random.random() == drawn
    assert same(found.state["schedule"]["parts"][0], 1)
    assert found.state["schedule"] == state_of(model, optimiser, 1)["schedule"]


def test_there_is_none_before_the_first(tmp_path):
    assert read_checkpoint(tmp_path / "checkpoint.pt") is None


def test_anyone_can_read_it_without_running_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    model, optimiser = training(0)
    write_checkpoint(path, state_of(model, optimiser, 2), 2)
    whole = torch.load(path, weights_only=True)
    assert set(whole) == {"format", "digest", "content"}
    assert whole["content"]["state"]["epoch"] == 2
    assert whole["digest"] == hash_state(whole["content"])
    target = training(1)[0]
    load_weights(path, target)
    assert torch.equal(target[0].weight, model[0].weight)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
@ON_DISK
def test_plain_values_come_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    write_checkpoint(path, {"epoch": 0, "value": value}, 0)
    found = read_checkpoint(path).state["value"]
    assert hash_state(found) == hash_state(value)
    assert same_or_tuple(found, value)


@given(VALUES, VALUES)
@IN_MEMORY
def test_the_digest_tells_values_apart(a, b):
    pair = ([a, b], [b, a])
    assert (hash_state(pair[0]) == hash_state(pair[1])) == same_or_tuple(a, b)


def same_or_tuple(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same_or_tuple, a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_or_tuple, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same_or_tuple(a[k], b[k]) for k in a)
    return same(a, b)


def test_subclasses_become_plain_and_views_leave_their_base(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = OrderedDict(
        epoch=3,
        size=torch.Size([2, 3]),
        lr=np.float64(0.5),
        view=torch.zeros(1_000_000)[5:7],
        parameter=nn.Parameter(torch.ones(2)),
    )
    write_checkpoint(path, state, 0)
    found = read_checkpoint(path).state
    assert type(found) is dict
    assert type(found["lr"]) is float
    assert type(found["size"]) is tuple
    assert not found["parameter"].requires_grad
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": object()}, r"state\.x\.a"),
        ([1, np.zeros(2)], r"state\.x\[1\]"),
        ([b"bytes"], "uint8 for bytes"),
        ({(1, 2): 3}, "key"),
        ({True: 3}, "key"),
        (torch.zeros(2, 2).to_sparse(), r"state\.x"),
        (lambda: 0, r"state\.x"),
    ],
)
def test_what_would_need_code_to_read_is_refused(tmp_path, value, place):
    with pytest.raises(RunError, match=place):
        write_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 1, "x": value}, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("epoch", [None, -1, 1.0, True])
def test_a_checkpoint_needs_its_epoch(tmp_path, epoch):
    with pytest.raises(RunError, match="epoch"):
        write_checkpoint(tmp_path / "checkpoint.pt", {"epoch": epoch}, 0)


@given(data=st.data())
@ON_DISK
def test_damage_is_an_error_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    state = {
        "epoch": 1,
        "weights": {"a": torch.arange(6.0)},
        "lr": 0.1,
        "rng": torch.get_rng_state(),
    }
    write_checkpoint(path, state, 1)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except RunError as error:
        assert_actionable(str(error))
    else:  # a byte of the zip's padding or dates
        assert hash_state(found.state) == hash_state(state)


def assert_actionable(message):
    assert "\n" not in message
    assert "another --out" in message or "upgrade taut" in message


def test_every_flipped_bit_of_a_tensor_is_seen(tmp_path):
    path = tmp_path / "checkpoint.pt"
    values = torch.tensor([1.2345678, 2.3456789])
    write_checkpoint(path, {"epoch": 1, "a": values}, 1)
    content = path.read_bytes()
    at = content.find(values.numpy().tobytes())
    assert at > 0
    for bit in range(64):
        changed = bytearray(content)
        changed[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(RunError, match="digest differs"):
            read_checkpoint(path)


def test_a_newer_layout_asks_for_an_upgrade(tmp_path):
    torch.save({"format": CHECKPOINT_FORMAT + 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="upgrade taut"):
        read_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    "content", [[], {}, {"format": 1}, torch.zeros(1), {"format": 1, "content": {}, "digest": ""}]
)
def test_a_pytorch_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="damaged"):
        read_checkpoint(tmp_path / "checkpoint.pt")
