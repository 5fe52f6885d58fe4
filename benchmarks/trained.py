"""The trained networks and the digits that the dear bounds are timed on.

A DM-small trained on 4,000 digits at eps 0.1, once by PGD and once by IBP. Weights come from the
file that is named, else from ``pretrained/dm-small-5k`` below the folder that ``TAUT_DATA`` names;
where there are none, a network is trained here for a few epochs, which its name then says.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import taut
from taut.training import EpsRamp

NET, SHAPE, CLASSES = "dm-small-p1", (1, 28, 28), 10
EPS = 0.1
EPOCHS = {"pgd": 4, "ibp": 10}


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, with a name that says how it was trained."""

    name: str
    net: nn.Module


def folder() -> Path | None:
    """Return the folder of weights, if there is one."""
    data = os.environ.get("TAUT_DATA")
    found = Path(data) / "pretrained" / "dm-small-5k" if data else None
    return found if found is not None and found.is_dir() else None


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Return the first test digits, ``(count, 1, 28, 28)`` in [0, 1], and their labels."""
    place = folder()
    if place is not None and (place / "digits.npz").is_file():
        with np.load(place / "digits.npz") as content:
            images, labels = content["images"][:count], content["labels"][:count]
        x = torch.from_numpy(images).float().div(255).view(-1, *SHAPE)
        return x, torch.from_numpy(labels).long()
    test = taut.load_data("mnist-5k", "test")
    return test.images[:count].float().div(255).view(-1, *SHAPE), test.labels[:count].long()


def network(kind: str, weights: Path | None) -> Trained:
    """Return the network trained by ``pgd`` or ``ibp``."""
    place = folder()
    if weights is None and place is not None:
        weights = place / f"dm_small_{kind}.pt"
    if weights is None or not weights.is_file():
        return _train(kind)
    net = taut.build_model(NET, input_shape=SHAPE, classes=CLASSES)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return Trained(f"{NET}, {kind}", net.eval())


def _train(kind: str) -> Trained:
    epochs = EPOCHS[kind]
    print(f"no weights of a {NET} trained by {kind}: training it, {epochs} epochs", file=sys.stderr)
    data = taut.load_data("mnist-5k", "train")
    settings = taut.Settings(
        epochs=epochs,
        eps=EPS,
        batch_size=100,
        lr=1e-3,
        seed=0,
        threads=1,
        schedule=EpsRamp(kind="linear", convention="crown-ibp", start=1, length=epochs - 1),
    )
    result = taut.fit(NET, (data.images, data.labels), kind, settings=settings)
    return Trained(f"{NET}, {kind}, {epochs} epochs", result.model.eval())
