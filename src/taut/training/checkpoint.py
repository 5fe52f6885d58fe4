"""What a checkpoint of training holds, and the way back.

Schedules and random streams are functions of the step and of (seed, epoch); the counters and
the seed are their whole state. Beside them a checkpoint holds the weights, the optimiser's
state, what the combination remembers, PyTorch's default generator, the rows of metrics so far
and the settings, so that a run is not resumed as another one by mistake.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from taut.errors import RunError
from taut.training.methods import Method
from taut.training.settings import Settings

FREE = (
    "device", "threads", "devices", "epochs", "validate_every", "validation_attack_images",
)  # fmt: skip
"""Settings a resumed run may change."""


def describe(method: Method, settings: Settings) -> dict[str, Any]:
    """Return what has to stay the same over a resumption, as plain values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    for name in FREE:
        plain.pop(name)
    if settings.rate.kind == "cosine":  # its rates depend on where the run ends
        plain["epochs"] = settings.epochs
    return plain | {"method": repr(method)}


def pack(
    model: nn.Module,
    optimiser: Optimizer,
    memory: Mapping[str, Tensor],
    description: Mapping[str, Any],
    rows: list[dict[str, Any]],
    step: int,
) -> dict[str, Any]:
    """Return the state after the epoch of the last row; tensors are live, not copies."""
    return {
        "epoch": rows[-1]["epoch"],
        "step": step,
        "weights": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generators": {"torch": torch.get_rng_state()},
        "memory": dict(memory),
        "rows": rows,
        "description": dict(description),
    }


def unpack(
    state: Mapping[str, Any],
    model: nn.Module,
    optimiser: Optimizer,
    memory: dict[str, Tensor],
    description: Mapping[str, Any],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Restore a state in place and return the rows of its epochs.

    Raises
    ------
    RunError
        When the checkpoint is of a run with other settings or of another network.

    """
    _same(state["description"], description, "")
    try:
        model.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise RunError(
            f"the checkpoint is of another network ({reason}); resume with the network it was "
            "trained with, or start a new run"
        ) from error
    memory.clear()
    memory.update({name: value.to(device) for name, value in state["memory"].items()})
    torch.set_rng_state(state["generators"]["torch"])
    return [dict(row) for row in state["rows"]]


def _same(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> None:
    """Raise :class:`RunError` naming the first setting that differs."""
    for name in sorted(set(then) | set(now)):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            _same(old, new, f"{prefix}{name}.")
        elif old != new:
            raise RunError(
                f"the checkpoint was written with {prefix}{name} = {old}, this run has {new}; "
                "resume with the settings of the run, or start a new one"
            )
