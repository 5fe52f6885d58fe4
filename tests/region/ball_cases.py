"""Random sets and rows for the tests of balls, and minima by other routes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

from taut.region import PIXELS, Box, LpBall

SEEDS = st.integers(0, 10_000)
F64 = torch.float64


def images(g: torch.Generator, *shape: int) -> Tensor:
    """Random images with a good share of pixels at 0 and at 1."""
    x = torch.rand(shape, generator=g, dtype=F64)
    kind = torch.randint(5, shape, generator=g)
    return x.masked_fill(kind == 0, 0).masked_fill(kind == 1, 1)


def coefficients(g: torch.Generator, *shape: int) -> Tensor:
    """Random rows with zeros, ties and a wide range of sizes."""
    a = torch.randn(shape, generator=g, dtype=F64)
    kind = torch.randint(6, shape, generator=g)
    a = torch.where(kind == 0, 0.0, torch.where(kind == 1, a.sign() * 0.5, a))
    return torch.where(kind == 2, a * 10.0 ** torch.randint(-9, 3, shape, generator=g), a)


def ball(g: torch.Generator, p: float, eps: float, cut: bool, *shape: int) -> LpBall:
    """A ball with radii of its own per pixel, some of them 0, alone or cut to the pixels."""
    radii = eps * (0.2 + torch.rand(shape, generator=g, dtype=F64))
    radii = radii.masked_fill(torch.randint(7, shape, generator=g) == 0, 0)
    made = LpBall.around(images(g, *shape), radii, p, PIXELS if cut else None)
    assert isinstance(made, LpBall)
    return made


def points_of(region: LpBall, g: torch.Generator, count: int) -> Tensor:
    """Points (N, count, *shape) of the set: inner ones, the sphere's, and the extreme ones."""
    shape = (len(region), count, *region.shape[1:])
    u = torch.randn(shape, generator=g, dtype=F64)
    if region.p == 1:
        u = u.sign() * torch.empty_like(u).exponential_(generator=g)
    u = u / u.flatten(2).norm(p=region.p, dim=2).view(*shape[:2], *[1] * (len(shape) - 2))
    u[:, ::3] *= torch.rand(1, generator=g, dtype=F64)
    pixels = u[0, 0].numel()
    axes = torch.cat([torch.eye(pixels, dtype=F64), -torch.eye(pixels, dtype=F64)])
    u = torch.cat(
        [u, axes.view(1, -1, *shape[2:]).expand(len(region), *[-1] * (len(shape) - 1))], 1
    )
    x = region.center[:, None] + region.radius[:, None] * u
    if region.bounds is not None:  # every pixel moves towards the center, so the norm shrinks
        x = x.clamp(region.bounds.lower[:, None], region.bounds.upper[:, None])
    return x


def applied(rows: Tensor, x: Tensor) -> Tensor:
    """Values (N, R, S) of rows (N, R, *shape) at points (N, S, *shape)."""
    return rows.flatten(2) @ x.flatten(2).transpose(1, 2)


def greedy(a: Sequence[float], x: Sequence[float], r: Sequence[float], box: Box | None) -> Fraction:
    """The exact minimum over one cut l_1 ball, in rational arithmetic."""
    value, budget = Fraction(0), Fraction(1)
    gains = []
    for i, (slope, middle, radius) in enumerate(zip(a, x, r, strict=True)):
        value += Fraction(slope) * Fraction(middle)
        if slope == 0 or radius == 0:
            continue
        room = Fraction(1)
        if box is not None:
            end = box.lower.flatten()[i] if slope > 0 else box.upper.flatten()[i]
            room = min(room, abs(Fraction(float(end)) - Fraction(middle)) / Fraction(radius))
        gains.append((abs(Fraction(slope)) * Fraction(radius), room))
    for gain, room in sorted(gains, reverse=True):
        step = min(room, budget)
        value, budget = value - gain * step, budget - step
    return value


def euclidean(
    a: Sequence[float], x: Sequence[float], r: Sequence[float], box: Box
) -> tuple[list[float], float]:
    """The minimiser over one cut l_2 ball, and its multiplier, by trying every breakpoint.

    Pixel i is at its end exactly while the multiplier is below ``|a_i| r_i / k_i``: between
    two neighbours of the sorted list the multiplier has a closed form.
    """
    gain = [abs(s) * t for s, t in zip(a, r, strict=True)]
    ends = [float(e) for e in torch.where(torch.tensor(a) > 0, box.lower, box.upper).flatten()]
    room = [abs(e - m) / t if t > 0 else 0.0 for e, m, t in zip(ends, x, r, strict=True)]
    moving = [i for i in range(len(a)) if gain[i] > 0]
    breaks = {i: gain[i] / room[i] if room[i] > 0 else math.inf for i in moving}
    order = sorted(moving, key=lambda i: -breaks[i])
    multiplier = 0.0
    if math.fsum(room[i] ** 2 for i in moving) > 1:
        for full in range(len(order) + 1):
            taken = math.fsum(room[i] ** 2 for i in order[:full])
            free = math.fsum(gain[i] ** 2 for i in order[full:])
            if taken >= 1:
                break
            guess = math.sqrt(free / (1 - taken))
            if full == len(order) or guess >= breaks[order[full]]:
                multiplier = guess
                break
    step = [min(room[i], gain[i] / multiplier) if multiplier else room[i] for i in range(len(a))]
    point = [
        m - math.copysign(t * v, s) if s else m for s, m, t, v in zip(a, x, r, step, strict=True)
    ]
    return point, multiplier
