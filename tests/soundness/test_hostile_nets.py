"""Random networks of odd convolutions, joins and borders: windows of rows against dense rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.bounds import METHODS, Ascent, Backward, BoundMethod, Optimised, backward, form, interval
from taut.bounds.fused import fused_cross_entropy
from taut.bounds.rows import bound_pairs
from taut.graph import Network, trace
from taut.operators.base import Affine
from taut.region import Box, LpBall, Region
from tests.counts import cases
from tests.soundness.harness import (
    SEEDS,
    evaluate,
    generator,
    least_margins,
    normal,
    points_of,
    random_box,
    uniform,
)

SQUASH = (torch.relu, torch.relu, torch.tanh, torch.abs, F.silu)
LIMIT = 48  # elements of a node
METHODS_HERE: dict[str, BoundMethod] = {
    **METHODS,
    "alpha-crown": Optimised(Ascent(iterations=1)),
    "published crown": Backward("crown", lines="adaptive", intersect=False),
    "crown in pieces": Backward("crown", budget=2**15),
}
BACKWARD = ("crown", "published crown", "relaxed-crown-2")


def pair(r: Random, low: int, high: int) -> tuple[int, int]:
    return r.randint(low, high), r.randint(low, high)


class Hostile(nn.Module):
    """A random graph of images: kernels and paddings larger than them, joins of any two nodes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choice = Random(seed)
        self.shape = (self.choice.randint(1, 3), *pair(self.choice, 1, 6))
        self.layers = nn.ModuleList()
        self.plan: list[tuple[object, tuple[int, ...]]] = []
        self.sizes: list[tuple[int, ...]] = [self.shape]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(self.choice.randint(3, 6)):
                self._grow()
            self.read = [len(self.sizes) - 1, self.choice.randrange(len(self.sizes))]
            width = sum(math.prod(self.sizes[i]) for i in self.read)
            self.head = nn.Linear(width, self.choice.choice([2, 4]))
        self.double().eval()

    def _grow(self) -> None:
        r = self.choice
        source = len(self.sizes) - 1 if r.random() < 0.7 else r.randrange(len(self.sizes))
        channels, height, width = self.sizes[source]
        kind = r.choice(["conv", "conv", "conv", "bend", "bend", "pool", "pad", "scale", "join"])
        if kind == "conv":
            groups = r.choice([1, 1, channels])
            steps = pair(r, 1, 4), pair(r, 1, 3), pair(r, 0, 3), pair(r, 1, 2)
            out = groups * r.choice([1, 2, 9])
            self._add(nn.Conv2d(channels, out, *steps, groups, r.random() < 0.7), source)
        elif kind == "bend":
            self._add(r.choice(SQUASH), source)
        elif kind == "pool":
            kernel, whole = pair(r, 1, 3), r.random() < 0.7
            edge = kernel[0] // 2, kernel[1] // 2
            self._add(nn.AvgPool2d(kernel, pair(r, 1, 3), edge, not whole, whole), source)
        elif kind == "pad":
            widths, value = [*pair(r, -1, 2), *pair(r, -1, 2)], r.choice([0.0, 0.0, 0.7])
            self._add(lambda x: F.pad(x, widths, value=value), source)
        elif kind == "scale":
            shape = r.choice([(channels, height, width), (channels, 1, 1)])
            factor, shift = torch.randn(2, *shape, dtype=torch.float64)
            self._add(lambda x: x * factor + shift, source)
        else:
            join = r.choice([torch.add, torch.sub, lambda a, b: torch.cat([a, b], 1)])
            self._add(join, source, r.randrange(len(self.sizes)))

    def _add(self, step: object, *sources: int) -> None:
        """Append a step where its shapes are possible and small."""
        assert callable(step)
        inputs = [torch.zeros(1, *self.sizes[i]) for i in sources]
        if isinstance(step, nn.Module):
            self.layers.append(step.eval())
        try:
            with torch.no_grad():
                shape = tuple(step(*inputs).shape[1:])
        except RuntimeError:
            return  # an impossible draw; another one follows
        if not 0 < math.prod(shape) <= LIMIT:
            return
        self.plan.append((step, sources))
        self.sizes.append(shape)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, sources in self.plan:
            assert callable(step)
            values.append(step(*(values[i] for i in sources)))
        logits: Tensor = self.head(torch.cat([values[i].flatten(1) for i in self.read], 1))
        return torch.relu(logits) if len(self.plan) % 4 == 0 else logits


def region_of(module: Hostile, seed: int, kind: str) -> tuple[Region, Tensor]:
    """Return sets of three images, one of them a point, and points of each."""
    g = generator(seed)
    if kind == "box":
        box = random_box(g, 3, *module.shape, scale=[0.05, 0.5, 3.0][seed % 3])
        return box, points_of(box, g, 60)
    x = uniform(g, 3, *module.shape)
    eps = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    whole = LpBall(x, eps.view(3, 1, 1, 1).expand_as(x), 1 + seed % 2)
    ball = whole if seed % 3 else replace(whole, bounds=Box(x * 0, x * 0 + 1))
    return ball, torch.stack([ball.project(x + normal(g, *x.shape)) for _ in range(20)])


def network(module: Hostile) -> Network:
    return trace(module, module.shape).instance()


@contextmanager
def windows(share: float) -> Iterator[None]:
    """Keep windows up to a share of the image; none at all with 0."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(form, "_WORTHWHILE", share))
        if share == 0:
            for operator in Affine.__subclasses__():
                stack.enter_context(mock.patch.object(operator, "reach", None))
        yield


@pytest.mark.parametrize("kind", ["box", "ball"])
@settings(max_examples=cases(8), deadline=None)
@given(seed=SEEDS)
@torch.no_grad()
def test_every_method_is_sound(kind: str, seed: int) -> None:
    """And an image has the bounds that it has alone, a point its own margins."""
    module = Hostile(seed)
    net = network(module)
    region, points = region_of(module, seed, kind)
    logits = evaluate(net, points)
    y = logits[0].argmax(1)
    least = least_margins(logits, y)
    loss = torch.stack([F.cross_entropy(z, y, reduction="none") for z in logits]).amax(0)
    slack = 1e-9 * (1 + float(logits.abs().amax()))
    for name, method in METHODS_HERE.items():
        margins = method.margins(net, region, y)
        assert bool((margins <= least + slack).all()), name
        alone = method.margins(net, region[1:2], y[1:2])
        torch.testing.assert_close(margins[1:2], alone, rtol=1e-7, atol=10 * slack, msg=name)
        if kind == "ball":  # the first of the sets is a point
            assert float((margins - least)[0].nan_to_num(0).abs().max()) < 10 * slack, name
    known = interval.propagate(net, region)
    assert bool((fused_cross_entropy(net, known, y, beta=0.7) >= loss - slack).all())


@pytest.mark.parametrize("share", [0.6, 1e9])
@settings(max_examples=cases(12), deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(["box", "ball"]))
@torch.no_grad()
def test_windows_change_no_bound(share: float, seed: int, kind: str) -> None:
    module = Hostile(seed)
    net = network(module)
    region, points = region_of(module, seed, kind)
    y = net(points[0]).argmax(1)
    for name in BACKWARD:
        found = []
        for kept in (share, 0):
            with windows(kept):
                found.append(METHODS_HERE[name].margins(net, region, y))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9, msg=name)


@settings(max_examples=cases(8), deadline=None)
@given(seed=SEEDS)
@torch.no_grad()
def test_intervals_called_exact_are_exact(seed: int) -> None:
    module = Hostile(seed)
    net = network(module)
    region, _ = region_of(module, seed, "box")
    known = interval.propagate(net, region)
    for index in net.exact_over_boxes():
        bounds = known.interval(index).bounds
        pairs = torch.ones_like(bounds.lower).flatten(1).nonzero()  # image and neuron
        exact = bound_pairs(known, index, pairs, backward.family(known, None), 2**24)
        torch.testing.assert_close(exact.lower.view_as(bounds.lower), bounds.lower)
        torch.testing.assert_close(exact.upper.view_as(bounds.upper), bounds.upper)
