"""Every element-wise activation with its formula written out, and hard intervals to try it on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from taut.operators import LINES, Activation, Bounds, ReLU
from taut.operators.clip import clip
from taut.operators.convex import Exp, Log, Reciprocal, Softplus, Sqrt
from taut.operators.gated import GELU, HardSwish, SiLU, TanhGELU
from taut.operators.leaky import Abs, LeakyReLU
from taut.operators.ramp import Ramp
from taut.operators.sshaped import Sigmoid, Tanh

Function = Callable[[np.ndarray], np.ndarray]
KINDS = tuple(kind for kind in LINES if kind != "constant")


@dataclass(frozen=True)
class Subject:
    """An operator, its formula in numpy, and the magnitudes its input may have."""

    operator: Activation
    formula: Function
    largest: float = 1e30
    positive: bool = False
    ulps: float = 0.0
    """By how many units in the last place of |f| + |slope z| a line may be off."""
    coarse: bool = False
    """Whether those are the units of the largest value on the interval."""


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def ramp(eta: float, low: float, high: float) -> Function:
    return lambda z: eta * z + (1 - eta) * np.clip(z, low, high)


def softplus(beta: float, threshold: float) -> Function:
    def formula(z: np.ndarray) -> np.ndarray:
        return np.where(beta * z > threshold, z, np.logaddexp(0, beta * z) / beta)

    return formula


def tanh_gelu(z: np.ndarray) -> np.ndarray:
    # 1 + tanh(p) = 2 s(2p); the limit keeps the cube of a huge number from overflowing
    near = np.clip(z, -1e4, 1e4)
    p = math.sqrt(2 / math.pi) * (near + 0.044715 * near**3)
    return z * special.expit(2 * p)


SUBJECTS = {
    "relu": Subject(ReLU(), lambda z: np.maximum(z, 0), ulps=2, coarse=True),
    "leaky": Subject(LeakyReLU(0.01), lambda z: np.where(z > 0, z, 0.01 * z), ulps=2),
    "leaky steep": Subject(LeakyReLU(3.0), lambda z: np.where(z > 0, z, 3 * z), ulps=2),
    "leaky falling": Subject(LeakyReLU(-0.5), lambda z: np.where(z > 0, z, -0.5 * z), ulps=2),
    "abs": Subject(Abs(), np.abs, ulps=2),
    "ramp": Subject(Ramp(tensor(0.25), tensor(0.0), tensor(0.5)), ramp(0.25, 0, 0.5), ulps=2),
    "clip": Subject(clip(tensor(-1.0), tensor(2.0)), ramp(0, -1, 2), ulps=2),
    "clip below": Subject(clip(tensor(-0.5), None), ramp(0, -0.5, math.inf), ulps=2),
    "clip above": Subject(clip(None, tensor(6.0)), ramp(0, -math.inf, 6), ulps=2),
    "sigmoid": Subject(Sigmoid(), special.expit),
    "tanh": Subject(Tanh(), np.tanh),
    "softplus": Subject(Softplus(), softplus(1, 20)),
    "softplus steep": Subject(Softplus(4.0, 6.0), softplus(4, 6)),
    "gelu": Subject(GELU(), lambda z: z * special.ndtr(z)),
    "gelu tanh": Subject(TanhGELU(), tanh_gelu),
    "silu": Subject(SiLU(), lambda z: z * special.expit(z)),
    "hardswish": Subject(HardSwish(), lambda z: z * np.clip(z / 6 + 0.5, 0, 1), ulps=2),
    "exp": Subject(Exp(), np.exp, largest=40),
    "log": Subject(Log(), np.log, largest=1e15, positive=True),
    "sqrt": Subject(Sqrt(), np.sqrt, largest=1e15, positive=True),
    "reciprocal": Subject(Reciprocal(), lambda z: 1 / z, largest=1e15, positive=True),
}


def magnitudes(g: torch.Generator, count: int, least: float, most: float) -> Tensor:
    """Return numbers whose logarithm is uniform."""
    ends = math.log(least), math.log(most)
    share = torch.rand(count, generator=g, dtype=torch.float64)
    return torch.lerp(torch.full_like(share, ends[0]), torch.full_like(share, ends[1]), share).exp()


def hard_bounds(subject: Subject, g: torch.Generator, count: int, dtype: torch.dtype) -> Bounds:
    """Return intervals of all magnitudes: wide, narrow, lopsided, points, far from zero."""
    if subject.positive:
        low = magnitudes(g, count, 1 / subject.largest, subject.largest)
        high = low * (1 + magnitudes(g, count, 1e-9, 1e9))
        high = high.clamp(max=1e18)
    else:
        most = subject.largest
        # a quarter each: |l|, |u| of unrelated size; ordinary; narrow; far off
        ends = torch.stack([-magnitudes(g, count, 1e-30, most), magnitudes(g, count, 1e-30, most)])
        usual = 3 * torch.randn(2, count, generator=g, dtype=torch.float64)
        center = 4 * torch.randn(count, generator=g, dtype=torch.float64)
        width = magnitudes(g, count, 1e-12, 1)
        narrow = torch.stack([center - width, center + width])
        side = torch.sign(torch.randn(count, generator=g, dtype=torch.float64))
        off = side * torch.stack([magnitudes(g, count, 1, most), magnitudes(g, count, 1, most)])
        kind = torch.arange(count) % 4
        both = torch.where(
            kind == 0, ends, torch.where(kind == 1, usual, torch.where(kind == 2, narrow, off))
        )
        low, high = both.amin(0), both.amax(0)
    high = torch.where(torch.rand(count, generator=g) < 0.1, low, high)
    return Bounds(low.to(dtype), high.to(dtype))


def grid(bounds: Bounds, count: int = 10_000) -> np.ndarray:
    """Return points ``(count, N)`` of each interval in double precision, its ends among them.

    Half of them are evenly spread; the others lie at all magnitudes around zero and the ends,
    and where a function of the table has a knee.
    """
    low, high = (end.detach().double().numpy() for end in (bounds.lower, bounds.upper))
    even = np.linspace(0, 1, count // 2)[:, None]
    spread = low * (1 - even) + high * even
    size = np.logspace(-12, 4, count // 8)[:, None]
    near = [low + size, high - size, size + 0 * low, -size + 0 * low]
    knees = np.array([-3, -1, -0.5, 0, 0.5, 1.5, 2, 3, 6, 20])[:, None] + 0 * low
    return np.clip(np.concatenate([spread, *near, knees]), low, high)
