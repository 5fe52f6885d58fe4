"""Train a CNN7 by IBP at eps 2/255 on a few CIFAR-10 images, for cnn7.py --weights.

    python benchmarks/train_cnn7.py OUT [--images 5000] [--epochs 5]

Enough to shrink the bounds, not to be accurate: the ramp of eps takes all epochs but the first and
the last.
"""

from __future__ import annotations

import argparse

import torch

import taut
from taut.cli.allocator import keep_pages
from taut.training import EpsRamp

EPS = 2 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="where the state_dict goes")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    keep_pages()
    data = taut.load_data("cifar10", "train")
    x, y = data.images[: options.images], data.labels[: options.images]
    settings = taut.Settings(
        epochs=options.epochs,
        eps=EPS,
        batch_size=50,
        lr=5e-4,
        grad_clip=10.0,
        seed=0,
        threads=options.threads,
        schedule=EpsRamp(kind="linear", convention="crown-ibp", start=1, length=options.epochs - 1),
    )
    result = taut.fit("cnn7", (x, y), "ibp", settings=settings)
    torch.save(result.model.state_dict(), options.out)
    print(result.rows[-1])


if __name__ == "__main__":
    main()
