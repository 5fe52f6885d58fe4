"""Cost of margin bounds over a plain forward pass of the same network, without gradients.

python benchmarks/bounds.py [--json] [--repeats 15]
"""

from __future__ import annotations

from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut.models
from taut.bounds import IBP, Backward
from taut.graph import trace
from taut.region import Box

CASES = (
    # net, input shape, method, batch, limit, peer, its ratio
    ("dm-small-p1", (1, 28, 28), "ibp", 128, 2.5, "auto_LiRPA", 3.97),
    ("cnn7", (3, 32, 32), "ibp", 128, 2.8, "auto_LiRPA", 2.84),
    ("dm-small-p1", (1, 28, 28), "crown-ibp", 16, None, "auto_LiRPA", 13.6),
)
METHODS_TIMED = {"ibp": IBP(), "crown-ibp": Backward("ibp", "adaptive")}  # one line family
EPS = {"dm-small-p1": 0.1, "cnn7": 2 / 255}


def hand_written(net: nn.Sequential, box: Box, y: Tensor) -> Tensor:
    """IBP margins as one would write them down: a yardstick for the machine."""
    center, radius = box.center, box.radius
    for layer in net[:-1]:
        if isinstance(layer, nn.Conv2d):
            center, radius = (
                layer(center),
                F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding),
            )
        elif isinstance(layer, nn.Linear):
            center, radius = layer(center), F.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            lower, upper = F.relu(center - radius), F.relu(center + radius)
            center, radius = (lower + upper) / 2, (upper - lower) / 2
        else:
            center, radius = layer(center), layer(radius)
    last = net[-1]
    rows, shift = last.weight[y][:, None] - last.weight, last.bias[y][:, None] - last.bias
    spread = (rows.abs() @ radius[:, :, None]).squeeze(2)
    return (rows @ center[:, :, None]).squeeze(2) + shift - spread


def main() -> None:
    options = common.arguments(__doc__, repeats=15)
    rows = []
    for name, shape, method, batch, limit, peer, peer_ratio in CASES:
        if options.net not in (None, name):
            continue
        torch.manual_seed(0)
        net = taut.models.build(name, shape, 10).eval()
        x = torch.rand(batch, *shape)
        y, graph = torch.randint(0, 10, (batch,)), trace(net, shape)
        box = Box.around(x, EPS[name])

        def bound(method: str = method, graph=graph, box=box, y=y) -> object:
            # the operators are made anew each time, as a caller of taut.margins pays for it
            return METHODS_TIMED[method].margins(graph.instance(), box, y)

        def plain(net=net, x=x) -> object:
            return net(x)

        functions: dict[str, Callable[[], object]] = {method: bound}
        if name.startswith("dm-small") and method == "ibp":
            functions["ibp, hand-written torch"] = lambda n=net, b=box, y=y: hand_written(n, b, y)
        with torch.no_grad():
            found = common.ratios(plain, functions, options.repeats)
        rows.append(
            common.Row("margins", name, method, batch, found.pop(method), limit, peer, peer_ratio)
        )
        rows += [
            common.Row("margins", name, other, batch, ratio, None, "", None)
            for other, ratio in found.items()
        ]
    common.report(rows, options.json)


if __name__ == "__main__":
    main()
