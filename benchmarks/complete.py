"""Complete verification of trained networks: how many digits are decided, and in what time.

The cascade with branch and bound last, every image with the same time limit; an image that is
misclassified counts as falsified. Networks are those of ``benchmarks/trained.py``, a DM-small
trained by IBP or PGD, or a weights file of another named model:

    python benchmarks/complete.py --net dm_small_ibp --eps 0.15 --first 50 --seconds 30

The yardstick is a plain pass of 16 digits in the same process, its median; the total is printed
as a multiple of it too, which compares better between machines than seconds do.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import trained
from torch import Tensor, nn

import taut
from taut.cli.allocator import keep_pages
from taut.verify import Cascade, Status
from taut.verify.branch import Branch

STAGES = ("clean", "attack", "ibp", "crown-ibp", "crown", "branch")
KINDS = {"dm_small_ibp": "ibp", "dm_small_pgd": "pgd"}
PASSES = 200


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", default="dm_small_ibp", help="%(default)s, dm_small_pgd, a file")
    parser.add_argument("--model", default=trained.NET, help="model of a file (%(default)s)")
    parser.add_argument("--eps", type=float, default=0.15, help="radius in [0, 1] (%(default)s)")
    parser.add_argument("--first", type=int, default=50, help="images (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="each (%(default)s)")
    parser.add_argument("--stages", default=",".join(STAGES), help="in order (%(default)s)")
    parser.add_argument("--clip", type=int, default=Branch().clip, help="(%(default)s)")
    parser.add_argument("--facets", type=int, default=Branch().facets, help="(%(default)s)")
    parser.add_argument("--give-up", type=float, default=math.inf, help="doublings (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--progress", action="store_true", help="print every verdict as it comes")
    return parser.parse_args()


def network(chosen: argparse.Namespace) -> nn.Module:
    if chosen.net in KINDS:
        return trained.network(KINDS[chosen.net], None).net
    path = Path(chosen.net)
    if not path.is_file():
        sys.exit(f"{chosen.net} is neither {' nor '.join(KINDS)} nor a weights file")
    net = taut.build_model(chosen.model, input_shape=trained.SHAPE, classes=trained.CLASSES)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def yardstick(net: nn.Module, images: Tensor) -> float:
    """Return the median CPU seconds of a plain pass of 16 images."""
    batch = images[:1].expand(16, *images.shape[1:]).contiguous()
    times = []
    with torch.no_grad():
        for _ in range(PASSES):
            began = time.process_time()
            net(batch)
            times.append(time.process_time() - began)
    return statistics.median(times)


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    keep_pages()
    net = network(chosen).requires_grad_(False)
    images, labels = trained.digits(chosen.first)
    plain = yardstick(net, images)

    def told(verdict: taut.Verdict) -> None:
        if chosen.progress:
            print(verdict.index, verdict.status, verdict.stage, f"{verdict.seconds:.1f} s")

    wall, cpu = time.perf_counter(), time.process_time()
    found = taut.certify(
        net,
        images,
        labels,
        eps=chosen.eps,
        cascade=Cascade(
            stages=tuple(chosen.stages.split(",")),
            timeout=chosen.seconds,
            branch=Branch(clip=chosen.clip, facets=chosen.facets, give_up=chosen.give_up),
        ),
        on_verdict=told,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = Counter(verdict.status for verdict in found.verdicts)
    open_ones = [v for v in found.verdicts if v.status is Status.UNKNOWN]
    row = {
        "net": chosen.net,
        "eps": chosen.eps,
        "images": len(found.verdicts),
        "seconds_each": chosen.seconds,
        "give_up": chosen.give_up if math.isfinite(chosen.give_up) else None,
        "decided": len(found.verdicts) - len(open_ones),
        "verified": count[Status.VERIFIED],
        "falsified": count[Status.FALSIFIED],
        "undecided": len(open_ones),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "plain_16_milliseconds": round(1e3 * plain, 3),
        "cpu_over_plain_16": round(cpu / plain),
    }
    if chosen.json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(f"{name.replace('_', ' '):>22}  {value}")
    stages = Counter(f"{verdict.status} by {verdict.stage}" for verdict in found.verdicts)
    for name, number in sorted(stages.items()):
        print(f"{number:>22}  {name}")
    for verdict in open_ones:
        print(f"{verdict.index:>22}  open, bound {verdict.margin:.3f}")


if __name__ == "__main__":
    main()
