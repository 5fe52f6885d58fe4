"""Verdicts as rows of the journal, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taut.errors import RunError
from taut.store.hashing import tensor_bytes
from taut.verify.verdict import Status, Verdict

COLUMNS = (
    "image", "label", "predicted", "status", "stage", "reason", "margin", "seconds", "shape",
    "counterexample", "parts",
)  # fmt: skip

AGAIN = "choose another --out, or delete {} to certify again"


def double(value: float | None) -> float:
    """Return a number of the database, in which NaN is NULL."""
    return math.nan if value is None else float(value)


def encode(verdict: Verdict) -> tuple[object, ...]:
    """Return a verdict as the values of :data:`COLUMNS`.

    Raises
    ------
    RunError
        When the counterexample is not float32.

    """
    shape, pixels = None, None
    if verdict.counterexample is not None:
        if verdict.counterexample.dtype != torch.float32:
            raise RunError(
                f"the counterexample of image {verdict.index} is "
                f"{verdict.counterexample.dtype}; a journal holds float32"
            )
        shape = json.dumps(list(verdict.counterexample.shape))
        pixels = tensor_bytes(verdict.counterexample)
    return (
        int(verdict.index),
        int(verdict.label),
        int(verdict.predicted),
        Status(verdict.status).value,
        verdict.stage,
        verdict.reason,
        float(verdict.margin),
        float(verdict.seconds),
        shape,
        pixels,
        int(verdict.parts),
    )


def decode(where: object, row: tuple[Any, ...]) -> Verdict:
    """Return the verdict of a row of the journal ``where``.

    Raises
    ------
    RunError
        When the row is damaged or contradicts itself.

    """
    image, label, predicted, status, stage, reason, margin, seconds, shape, pixels, parts = row
    try:
        verdict = Verdict(
            index=image,
            label=label,
            predicted=predicted,
            status=Status(status),
            stage=stage,
            reason=reason,
            margin=double(margin),
            seconds=double(seconds),
            counterexample=None if shape is None else _pixels(shape, pixels),
            parts=0 if parts is None else int(parts),
        )
        found = flaw(verdict)
        if found is not None:
            raise ValueError(found)
        return verdict
    except (ValueError, TypeError) as error:
        raise RunError(
            f"the verdict of image {image} in {where} is damaged ({error}); {AGAIN.format(where)}"
        ) from error


def flaw(verdict: Verdict) -> str | None:
    """Say where a verdict contradicts itself; nothing reads as proved that is not."""
    broken = verdict.counterexample is not None
    if verdict.status == Status.VERIFIED:
        if not 0 < verdict.margin < math.inf:
            return f"verified with margin {verdict.margin!r}"
        if verdict.predicted != verdict.label or verdict.reason or broken:
            return "verified, and misclassified or broken"
    if verdict.status == Status.FALSIFIED and not broken and verdict.predicted == verdict.label:
        return "falsified without counterexample"
    return None


def _pixels(shape: str, pixels: bytes) -> Tensor:
    values = np.frombuffer(pixels, dtype="<f4").reshape(json.loads(shape))
    return torch.from_numpy(values.copy())
