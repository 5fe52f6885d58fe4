"""Cost of cheap margin bounds over a plain forward pass of the same network, without gradients.

    python benchmarks/bounds.py [--json] [--repeats 15] [--net NAME]

IBP, written by hand and taut's, and CROWN-IBP with adaptive lines for the nine margins of each
image; random weights. auto_LiRPA runs in the same rounds where it is installed; elsewhere the
table has its ratios from another machine, measured by the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import common
import peers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut.models
from taut.bounds import IBP, Backward, BoundMethod
from taut.graph import trace
from taut.region import Box


@dataclass(frozen=True)
class Case:
    """A bound on a network; ``peer_ratio`` is auto_LiRPA's, where it cannot be measured here."""

    net: str
    shape: tuple[int, int, int]
    method: str
    batch: int
    limit: float
    peer_ratio: float


CASES = (
    Case("dm-small-p1", (1, 28, 28), "ibp", 128, 2.3, 3.97),
    Case("cnn7", (3, 32, 32), "ibp", 128, 2.6, 2.84),
    Case("dm-small-p1", (1, 28, 28), "crown-ibp", 16, 11.0, 13.6),
)
METHODS_TIMED: dict[str, BoundMethod] = {
    "ibp": IBP(),
    "crown-ibp": Backward("ibp", lines="adaptive"),  # one line family
}
EPS = {"dm-small-p1": 0.1, "cnn7": 2 / 255}
BY_HAND = "ibp, hand-written torch"


def hand_written(net: nn.Sequential, box: Box, y: Tensor) -> Tensor:
    """IBP margins as one would write them down: a yardstick for the machine."""
    center, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    *layers, last = net
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            padding = layer.padding
            assert not isinstance(padding, str)
            center, radius = (
                layer(center),
                F.conv2d(radius, layer.weight.abs(), None, layer.stride, padding),
            )
        elif isinstance(layer, nn.Linear):
            center, radius = layer(center), F.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            lower, upper = F.relu(center - radius), F.relu(center + radius)
            center, radius = (lower + upper) / 2, (upper - lower) / 2
        else:
            center, radius = layer(center), layer(radius)
    assert isinstance(last, nn.Linear)
    rows, shift = last.weight[y][:, None] - last.weight, last.bias[y][:, None] - last.bias
    spread = (rows.abs() @ radius[:, :, None]).squeeze(2)
    return (rows @ center[:, :, None]).squeeze(2) + shift - spread


def measure(case: Case, repeats: int) -> list[common.Row]:
    torch.manual_seed(0)
    net = taut.models.build(case.net, case.shape, 10).eval()
    x = torch.rand(case.batch, *case.shape)
    y, graph = torch.randint(0, 10, (case.batch,)), trace(net, case.shape)
    box = Box.around(x, EPS[case.net])
    method = METHODS_TIMED[case.method]
    functions: dict[str, Callable[[], object]] = {
        # the operators are made anew each time, as a caller of taut.margins pays for it
        case.method: lambda: method.margins(graph.instance(), box, y)
    }
    if case.net.startswith("dm-small") and case.method == "ibp":
        functions[BY_HAND] = lambda: hand_written(net, box, y)
    if peers.installed():
        peer = peers.Peer(net, case.shape, case.batch)
        functions[peers.NAME] = peer.timed(box, y, 10, case.method)
    with torch.no_grad():
        found = common.ratios(lambda: net(x), functions, repeats)
    here = found.pop(peers.NAME, None)
    name = peers.NAME if here is not None else f"{peers.NAME}, elsewhere"
    peer_ratio = case.peer_ratio if here is None else round(here, 2)
    first = common.Row(
        "margins", case.net, case.method, case.batch, found.pop(case.method), case.limit,
        name, peer_ratio,
    )  # fmt: skip
    others = [
        common.Row("margins", case.net, other, case.batch, ratio, None, "", None)
        for other, ratio in found.items()
    ]
    return [first, *others]


def main() -> None:
    options = common.arguments(__doc__, repeats=15)
    rows = []
    for case in CASES:
        if options.net in (None, case.net):
            rows += measure(case, options.repeats)
    common.report(rows, options.json)


if __name__ == "__main__":
    main()
