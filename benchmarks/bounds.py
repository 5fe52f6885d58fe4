"""Cost of margin bounds over a plain forward pass of the same network, without gradients.

python benchmarks/bounds.py [--json] [--repeats 15]
"""

from __future__ import annotations

from collections.abc import Callable

import common
import torch

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
        with torch.no_grad():
            found = common.ratios(plain, functions, options.repeats)
        rows.append(
            common.Row("margins", name, method, batch, found[method], limit, peer, peer_ratio)
        )
    common.report(rows, options.json)


if __name__ == "__main__":
    main()
