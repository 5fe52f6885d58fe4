"""Messages that the pages quote are those a user gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from docs_pages import ROOT, blocks
from torch import Tensor, nn

import taut
from taut.errors import ModelError

PAGE = ROOT / "docs" / "own-model.md"
Forward = Callable[["Asked", Tensor], object]


class Asked(nn.Module):
    """Computes what a row of the table is about."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.compute = forward
        self.layer, self.head = nn.Linear(12, 12), nn.Linear(12, 3)
        self.norm = nn.BatchNorm1d(12, track_running_stats=False)

    def forward(self, x: Tensor) -> object:
        return self.compute(self, x)


def branching(net: Asked, x: Tensor) -> Tensor:
    return net.head(x) if x.sum() > 0 else net.head(-x)


def in_place(net: Asked, x: Tensor) -> Tensor:
    h = net.layer(x)
    return net.head(torch.relu_(h) + h)


def attention(net: Asked, x: Tensor) -> Tensor:
    h = x.view(-1, 3, 4)
    return net.head((h @ h.transpose(1, 2) @ h).flatten(1))


def normed(net: Asked, x: Tensor) -> Tensor:
    mean, variance = torch.zeros(12), torch.ones(12)
    return net.head(F.batch_norm(x, mean, variance, training=True))


MODELS: dict[str, Forward] = {
    "depends on the values of a tensor": branching,
    "does not accept images of shape (1, 27, 27)": lambda net, x: net.head(x.flatten(1)),
    "keep the batch as its first axis": lambda net, x: net.head(x - x.mean(0)),
    "how many images there are": lambda net, x: net.head(x / x.size(0)),
    "used again later": in_place,
    "matmul of two tensors": attention,
    "only constants divide": lambda net, x: net.head(x / net.layer(x)),
    "outside its domain": lambda net, x: net.head(torch.log(net.layer(x))),
    "returns a tuple": lambda net, x: (net.head(x), x),
    "without running statistics": lambda net, x: net.head(net.norm(x)),
    "F.batch_norm traced": normed,
    "F.dropout traced": lambda net, x: net.head(F.dropout(x, training=True)),
    "cannot follow": lambda net, x: net.head(F.dropout(x, training=net.training)),
}
"""What provokes the message that holds these words."""


def quoted() -> list[str]:
    section = PAGE.read_text().split("## Other messages")[1].split("## ")[0]
    cells = re.findall(r"^\| (`.+?`) \|", section, re.M)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def words_of(message: str) -> str:
    (found,) = [words for words in MODELS if words in message]
    return found


def test_every_quoted_message_has_a_model_that_provokes_it() -> None:
    assert sorted(map(words_of, quoted())) == sorted(MODELS)


@pytest.mark.parametrize("message", quoted(), ids=words_of)
def test_messages_are_those_that_are_shown(message: str) -> None:
    torch.manual_seed(0)
    words = words_of(message)
    net = Asked(MODELS[words])
    shape = (1, 27, 27) if "27" in words else (12,)
    pattern = re.escape(message).replace(re.escape("..."), ".*")
    with pytest.raises(ModelError, match=pattern):
        provoke(net, words, torch.rand(2, *shape))


def provoke(net: Asked, words: str, x: Tensor) -> None:
    shape = tuple(x.shape[1:])
    if words == "cannot follow":
        graph = taut.trace(net.eval(), shape)
        net.train()
        graph.clean(x)
    elif "traced" in words:
        taut.trace(net.eval(), shape)
    else:
        taut.bounds(net, taut.Box.around(x, 0.1))


def test_the_ways_out_are_ways_out() -> None:
    """What the table says to do instead is supported."""

    def quotient(net: Asked, x: Tensor) -> Tensor:
        h = torch.relu(net.layer(x)) + 0.5
        return net.head(x * torch.reciprocal(h) + torch.log(h) + torch.relu(x) * net.layer(x))

    net, x = Asked(quotient), torch.rand(2, 12)
    found = taut.bounds(net, taut.Box.around(x, 0.05), "crown")
    points = (x + 0.05 * (2 * torch.rand(100, *x.shape) - 1)).clamp(0, 1)
    for point in points:
        logits = net(point)
        assert isinstance(logits, Tensor)
        assert bool((found.lower <= logits + 1e-5).all())
        assert bool((logits <= found.upper + 1e-5).all())


def test_the_first_script_is_short_and_stands_beside_its_error() -> None:
    first, second = blocks(Path(PAGE), "python")[:2]
    code = [line for line in first.text.splitlines() if line.strip()]
    assert len(code) <= 20
    assert "UnsupportedOperator" in second.text
