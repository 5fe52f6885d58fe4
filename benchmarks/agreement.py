"""taut and auto_LiRPA give the same bounds where they compute the same thing.

python benchmarks/agreement.py [--json] [--net NAME]

Networks with random weights (and random statistics of batch normalisation), two random images,
eps such that about half of all neurons are unstable under CROWN's bounds. Each bound is computed by
both with the same lines, one image at a time. The difference of an image's bounds is taken
relative to the largest of them. Above 1e-5 the exit code is 1.

CROWN comes in two kinds. As published, every neuron is bounded by substitution and keeps what is
found; intersected, only unstable neurons are, and no bound is worse than by intervals.

Three kinds of rows have no limit, because the two do not compute the same thing. The mean, positive
where taut's bounds are on average the tighter ones, tells by how much.

- "crown default": auto_LiRPA with its default options bounds unstable neurons only, but keeps what
  it finds there even where intervals are better. Beside it stands taut's intersected CROWN.
- Leaky ReLU of slope a, adaptive: taut takes the line of the smaller area, slope 1 where u > -l;
  auto_LiRPA takes slope 1 where the chord's slope is above 1/2, which is u > -(1 - 2 a) l.
- Leaky ReLU, one: auto_LiRPA tells dead neurons by a chord's slope that is at most a, as rounded;
  where rounding leaves it above a, the neuron gets slope 1 although it is linear there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import peers
import torch
from torch import Tensor, nn

import taut.models
from taut.bounds import IBP, Backward
from taut.graph import trace
from taut.graph.network import Network
from taut.models import Concat, Residual
from taut.region import Box

LIMIT = 1e-5
DEFAULT = "crown default"
IMAGES = 2


@dataclass(frozen=True)
class Case:
    """A network, the bounds to compare on it and the line families; ReLU's by default."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]
    methods: tuple[str, ...] = ("ibp", "crown-ibp", "crown", "crown intersected", DEFAULT)
    lines: tuple[str, ...] = ("adaptive",)
    other_lines: tuple[str, ...] = ()
    """Line families that mean something else to each."""


@dataclass(frozen=True)
class Row:
    """What is printed of one comparison."""

    net: str
    dtype: str
    method: str
    lines: str
    eps: float
    unstable: float
    difference: float
    tighter: float
    """Mean of taut's bounds less auto_LiRPA's, relative as ``difference`` is."""
    limit: float | None


def pooled() -> nn.Sequential:
    """Average pooling before the first activation, where intervals are not exact, and later."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(54, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


def branches() -> nn.Sequential:
    """A residual block and a block that puts channels beside each other."""
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(),
        Concat(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 3, padding=1)), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 64, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip


def zoo(name: str, shape: tuple[int, ...], **arguments: object) -> Case:
    """A network of the zoo, a few channels wide."""
    factory = taut.models.MODELS[name].factory
    return Case(name, shape, lambda: factory(shape, 5, **{"activation": "relu", **arguments}))


def cases() -> Iterator[Case]:
    families = ("adaptive", "zero", "one", "same-slope")
    dm = zoo("dm-small-p1", (1, 28, 28), filters=(4, 8), fc=32)
    yield Case(dm.name, dm.shape, dm.make, lines=families)
    yield zoo("cnn7", (3, 12, 12), filters=(4, 6), fc=16)
    yield zoo("wide-resnet-shi", (3, 8, 8), stem=4, filters=(4, 6, 6), fc=12)
    yield zoo("densenet-cifar", (3, 8, 8), blocks=(1, 2, 1), growth=2, fc=8)
    yield Case("average pooling", (1, 12, 12), pooled)
    yield Case("residual and concat", (3, 8, 8), branches)
    mlp = zoo("fc5", (1, 8, 8), hidden=(40, 40, 40, 40))
    yield Case(mlp.name, mlp.shape, mlp.make, lines=families)
    leaky = zoo("dm-small-p2", (1, 14, 14), filters=(4, 8), fc=32, activation="leaky-relu")
    yield Case("dm-small-p2, leaky", leaky.shape, leaky.make, lines=("zero", "same-slope"),
               other_lines=("adaptive", "one"))  # fmt: skip
    sigmoid = zoo("fc5-sigmoid", (1, 8, 8), hidden=(40, 40), activation="sigmoid")
    yield Case(sigmoid.name, sigmoid.shape, sigmoid.make, methods=("ibp",))


def randomise(net: nn.Module) -> nn.Module:
    """Give batch normalisation statistics and factors of a trained kind."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return net.eval()


def share_unstable(net: Network, x: Tensor, eps: float) -> float:
    """Return the share of activations' inputs that are unstable under CROWN's bounds."""
    known = Backward("crown", lines="adaptive").intermediate(net, Box.around(x, eps))
    masks = [bounds.unstable.flatten() for bounds in known.activations()]
    return float(torch.cat(masks).double().mean())


def half_unstable(net: Network, x: Tensor) -> float:
    """Return an eps at which about half of the neurons are unstable."""
    low, high = 1e-4, 0.5
    for _ in range(10):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share_unstable(net, x, middle) < 0.5 else (low, middle)
    return high


def ours(net: Network, box: Box, y: Tensor, method: str, lines: str) -> Tensor:
    """Return taut's bounds: of margins, and for IBP of the logits too, ``(1, n)``."""
    if method == "ibp":
        logits = IBP().outputs(net, box)
        return torch.cat([IBP().margins(net, box, y), logits.lower, logits.upper], 1)
    if method == "crown-ibp":
        return Backward("ibp", lines=lines).margins(net, box, y)
    intersect = method != "crown"
    return Backward("crown", lines=lines, intersect=intersect).margins(net, box, y)


def theirs(net: nn.Module, box: Box, y: Tensor, classes: int, method: str, lines: str) -> Tensor:
    """Return auto_LiRPA's bounds in the same form."""
    options = {"crown": peers.AS_PUBLISHED, "crown intersected": peers.INTERSECTED}.get(method)
    peer = peers.Peer(net, box.lower.shape[1:], 1, lines=lines, options=options)
    found = peer.margins(box, y, classes, method.split()[0])
    return torch.cat([found, *peer.outputs(box, "ibp")], 1) if method == "ibp" else found


def compare(case: Case, dtype: torch.dtype) -> Iterator[Row]:
    torch.manual_seed(0)
    net = randomise(case.make()).to(dtype)
    x = torch.rand(IMAGES, *case.shape, dtype=torch.float64).to(dtype)
    network = trace(net, case.shape).instance()
    y = network(x).argmin(1)
    eps = half_unstable(network, x)
    unstable = share_unstable(network, x, eps)
    for lines in case.lines + case.other_lines:
        for method in case.methods:
            if method == "ibp" and lines != case.lines[0]:
                continue
            gaps = []
            for image in range(IMAGES):
                one = slice(image, image + 1)
                box = Box.around(x[one], eps)
                a = ours(network, box, y[one], method, lines)
                b = theirs(net, box, y[one], network.classes, method, lines)
                if method == "crown intersected":  # its last bound is intersected too
                    a = torch.maximum(a, _behind(network, box, y[one], lines))
                real = a.isfinite()
                if not torch.equal(real, b.isfinite()):
                    raise RuntimeError(f"{case.name}: one of both has no finite bound")
                gaps.append((a[real] - b[real]) / b[real].abs().max())
            gap = torch.cat(gaps).double()
            limit = None if method == DEFAULT or lines in case.other_lines else LIMIT
            yield Row(
                case.name, str(dtype).removeprefix("torch."), method,
                "" if method == "ibp" else lines, eps, unstable,
                float(gap.abs().max()), float(gap.mean()), limit,
            )  # fmt: skip


def _behind(net: Network, box: Box, y: Tensor, lines: str) -> Tensor:
    """Return elided margins from the intervals behind CROWN's bounds of the last activations."""
    from taut.bounds import interval

    known = Backward("crown", lines=lines).intermediate(net, box)
    return interval.margins(net, known, y)


def show(row: Row) -> None:
    sign = "" if row.difference == 0 else f"{row.tighter:+.0e}"
    verdict = "" if row.limit is None else "" if row.difference <= row.limit else "  DIFFERS"
    print(
        f"{row.net:<20} {row.dtype:<8} {row.method:<18} {row.lines:<11} {row.eps:8.2g} "
        f"{row.unstable:6.0%} {row.difference:10.1e} {sign:>7}{verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--net", default="", help="only networks whose name holds this text")
    options = parser.parse_args()
    if not peers.installed():
        print(peers.HOWTO, file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)
    rows = []
    if not options.json:
        print(f"{'net':<20} {'type':<8} {'method':<18} {'lines':<11} {'eps':>8} {'unst.':>6} "
              f"{'difference':>10} {'mean':>7}")  # fmt: skip
    with torch.no_grad():
        for case in cases():
            if options.net not in case.name:
                continue
            for dtype in (torch.float64, torch.float32):
                for row in compare(case, dtype):
                    rows.append(row)
                    print(json.dumps(asdict(row)), flush=True) if options.json else show(row)
    wrong = [row for row in rows if row.limit is not None and row.difference > row.limit]
    print(f"{len(rows)} comparisons with {peers.version()}, {len(wrong)} differ", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
