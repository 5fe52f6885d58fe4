"""Bounding methods by line family on a trained network: mean margin bound and verified error.

python benchmarks/bounding_lines.py RUN [--data mnist] [--first 1000] [--eps 0.3]

RUN is what `taut train` wrote. Each method is measured as published (a layer's bounds are what
substitution finds) and as taut runs it (never worse than intervals). Rows are printed as they are
finished; the table comes last, with the number of margins that break the order which theory
promises for tight lines, IBP <= LBP, CROWN-IBP <= CROWN-LBP <= CROWN.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import taut
from taut.bounds import IBP, Backward, BoundMethod
from taut.cli.allocator import keep_pages
from taut.graph import trace

POINTS: dict[str, dict[str, object]] = {
    "CROWN-IBP": {"before": "ibp"},
    "LBP": {"before": "lbp", "depth": 1},
    "CROWN-LBP": {"before": "lbp"},
    "CROWN": {"before": "crown"},
}
BATCH = 20
ORDER = (("IBP", "LBP"), ("IBP", "CROWN-IBP"), ("LBP", "CROWN-LBP"))
ORDER += (("CROWN-IBP", "CROWN-LBP"), ("CROWN-LBP", "CROWN"))


def methods() -> list[tuple[str, str, str, BoundMethod]]:
    """Return (method, lines, how layers before are bounded, the method itself)."""
    found: list[tuple[str, str, str, BoundMethod]] = [("IBP", "-", "", IBP())]
    for lines in ("tight", "adaptive"):
        for name, point in POINTS.items():
            for intersect in (False, True):
                if intersect and (name == "CROWN-IBP" or lines == "tight"):
                    continue  # the same: tight lines are never worse than intervals
                how = "never worse than IBP" if intersect else "as published"
                method = Backward(lines=lines, intersect=intersect, **point)  # type: ignore[arg-type]
                found.append((name, lines, how, method))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a trained network")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_pages()
    model = taut.load_model(options.run).eval()
    images = taut.load_data(options.data, "test")
    x = images.pixels(slice(0, options.first))
    y = images.labels[: options.first]
    net = trace(model, tuple(x.shape[1:])).instance()
    wrong = float((model(x).argmax(1) != y).double().mean())
    print(f"natural error {100 * wrong:.2f} % of {len(x)}", file=sys.stderr)
    rows = ["| method | lines | layers before | mean lower bound | verified error | s an image |"]
    rows.append("|---|---|---|---|---|---|")
    ordered: dict[str, torch.Tensor] = {}
    for name, lines, how, method in methods():
        began, parts = time.process_time(), []
        with torch.no_grad():
            for at in range(0, len(x), BATCH):
                part = slice(at, at + BATCH)
                region = taut.Box.around(x[part], options.eps)
                parts.append(method.margins(net, region, y[part]).double())
        margins = torch.cat(parts)
        finite = margins[torch.isfinite(margins)]
        if lines != "adaptive":
            ordered[name] = finite
        seconds = (time.process_time() - began) / len(x)
        error = 100 * float((margins.amin(1) <= 0).double().mean())
        rows.append(
            f"| {name} | {lines} | {how} | {float(finite.mean()):.4g} | {error:.1f} % | "
            f"{seconds:.3f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join(rows))
    slack = 1e-5 * (1 + ordered["CROWN"].abs())  # float32
    broken = [int((ordered[low] > ordered[high] + slack).sum()) for low, high in ORDER]
    print(f"\nOrder with tight lines broken in {sum(broken)} of {5 * len(slack)} comparisons.")


if __name__ == "__main__":
    main()
