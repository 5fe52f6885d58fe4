"""Figures of validation, counted again from their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import blobs, tiny_net

from taut.bounds import interval
from taut.graph import trace
from taut.models import ParamRamp
from taut.region import Box
from taut.training import EpsRamp, Natural, Settings, fit
from taut.training.evaluate import validate


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {
        "epochs": 4, "eps": 0.1, "batch_size": 20, "lr": 1e-2, "device": "cpu", "threads": 1,
        "schedule": EpsRamp("linear", 1, 3), "validation_attack_images": 0,
    }  # fmt: skip
    return Settings(**(base | fields))


def test_shares_of_neurons_are_counted_as_they_are_defined() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 30), nn.ReLU(), nn.Linear(30, 20), ParamRamp((20,), r=0.2),
        nn.Linear(20, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[1].bias -= 0.5
        net[3].bias += 0.2 * torch.randn(20)
    held, eps = blobs(90), 0.02
    found = validate(trace(net, (1, 4, 4)), held, eps, ("ibp",), attack_images=50)
    x = held.pixels()
    with torch.no_grad():
        first = net[:2](x)
        second = net[:4](x)
        known = interval.propagate(trace(net, (1, 4, 4)).instance(), Box.around(x, eps))
        a, b = known.activations()
    dead = (first <= 0).all(0)
    assert found["dead_share_1"] == dead.double().mean().item()
    beyond = (second <= 0).all(0) | (second >= 0.2).all(0)
    assert found["dead_share_2"] == beyond.double().mean().item()
    assert 0 < dead.sum() < 30
    assert (second <= 0).all(0).any()
    assert (second >= 0.2).all(0).any()
    bends = (a.lower < 0) & (a.upper > 0)
    knees = ((b.lower < 0) & (b.upper > 0)) | ((b.lower < 0.2) & (b.upper > 0.2))
    both = torch.cat([bends, knees], 1)
    assert found["unstable_share"] == pytest.approx(both.double().mean().item(), abs=1e-9)


def test_attacked_accuracy_is_of_the_first_images_and_between_the_other_two() -> None:
    held = blobs(90)
    net = fit(tiny_net(), held, None, Natural(), settings(epochs=12, eps=0.0)).model
    graph = trace(net, (1, 4, 4))
    found = validate(graph, held, 0.12, ("ibp",), attack_images=90)
    assert found["certified_accuracy"] < found["attacked_accuracy"] < found["natural_accuracy"]
    assert found["attacked_images"] == 90
    part = validate(graph, held, 0.12, ("ibp",), attack_images=40)
    alone = validate(graph, held[:40], 0.12, ("ibp",), attack_images=1000)
    assert (part["attacked_images"], alone["attacked_images"]) == (40, 40)
    assert part["attacked_accuracy"] == alone["attacked_accuracy"]
    assert "attacked_accuracy" not in validate(graph, held, 0.12, ("ibp",))
    halves: list[Tensor] = []

    def add(value: Tensor) -> Tensor:
        halves.append(value if not halves else halves[-1] + value)
        return halves[-1]

    for rank in range(2):
        both = validate(graph, held, 0.12, ("ibp",), attack_images=90, part=(rank, 2), reduce=add)
    assert both == pytest.approx(found, abs=1e-12)


def test_epochs_between_evaluations_are_skipped_and_the_last_is_not() -> None:
    rows = fit(tiny_net(), blobs(), blobs(30), Natural(), settings(epochs=5, validate_every=2)).rows
    assert [bool(row["validation"]) for row in rows] == [False, True, False, True, True]
