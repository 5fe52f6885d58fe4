"""Work grows with the nodes and edges of a graph, not with the paths through it; counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from graph_forms import EITHER_WAY, Asks
from torch import Tensor, nn

import taut.graph.build
from taut.bounds import IBP, Backward
from taut.graph import trace
from taut.graph.folding import pixel_major
from taut.operators import OPERATORS
from taut.operators.base import Operator
from taut.operators.registry import BUILDERS
from taut.region import Box
from tests.soundness.harness import generator, uniform

WIDTH = 3


class Doubling(nn.Module):
    """Each step adds the one before to itself: ``2 ** depth`` paths from input to output."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.scale = nn.Parameter(torch.full((), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale
        for _ in range(self.depth):
            scale = (scale + scale) * 0.5
            x = (x + x.relu()) * scale
        return x


class Dense(nn.Module):
    """Every block reads all former ones, joined."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH * (i + 1), WIDTH) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for block in self.blocks:
            parts.append(block(torch.cat(parts, 1)).relu())
        return parts[-1]


class Residual(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        for block in self.blocks:
            block.weight.data *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            out = block(x)
            out = out.relu_()
            x = out + x
        return x


NETS: dict[str, tuple[Callable[[int], nn.Module], int, int]] = {
    "doubling": (Doubling, 30, 60),
    "dense": (Dense, 30, 60),
    "residual": (Residual, 100, 200),
}


def build(kind: Callable[[int], nn.Module], depth: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(depth).double().eval()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls of builders and of every operator's maps."""
    counted: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return function(*args, **kwargs)

        return call

    builders = {target: counting("build", each) for target, each in BUILDERS.items()}
    monkeypatch.setattr(taut.graph.build, "BUILDERS", builders)
    classes = {type(c.operator) for e in OPERATORS.values() for c in e.cases(generator(0))}
    for kind in classes:
        for name in ("forward", "magnitude", "transpose", "lines", "interval"):
            for base in kind.__mro__:
                if name in vars(base) and base is not Operator and base in classes:
                    monkeypatch.setattr(base, name, counting(name, vars(base)[name]))
                    break
    return counted


@EITHER_WAY
@pytest.mark.parametrize("name", NETS)
def test_tracing_builds_every_call_once(
    name: str, wrap: Callable[[nn.Module], nn.Module], calls: Counter[str]
) -> None:
    kind, few, many = NETS[name]
    module = wrap(build(kind, few // 2 if wrap is Asks else many))
    graph = trace(module, (WIDTH,))
    assert calls["build"] == len(graph.steps) - 1  # all but the input
    x = 0.1 * uniform(generator(1), 2, WIDTH)
    torch.testing.assert_close(graph.instance()(x), module(x))


@pytest.mark.parametrize("name", NETS)
def test_bounds_of_twice_the_depth_take_twice_the_calls(name: str, calls: Counter[str]) -> None:
    kind, *depths = NETS[name]
    used = []
    for depth in depths:
        graph = trace(build(kind, depth), (WIDTH,))
        box = Box.around(0.1 * uniform(generator(2), 2, WIDTH), 1e-3)
        counts = []
        for method in (IBP(), Backward("ibp", "tight")):
            calls.clear()
            bounds = method.outputs(graph.instance(), box)
            assert bool((bounds.lower <= bounds.upper).all())
            counts.append(calls.total())
        used.append((len(graph.steps), *counts))
    (steps, *few), (twice, *many) = used
    assert twice <= 2 * steps + 2
    for one, two in zip(few, many, strict=True):
        assert steps / 2 < one < 12 * steps  # a few maps a node
        assert two <= 2 * one + 24


def test_parameters_shared_along_many_paths_are_read_once(calls: Counter[str]) -> None:
    reads = 0
    depth = 40

    class Counted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            nonlocal reads
            reads += 1
            return weight

    module = build(Doubling, depth)
    nn.utils.parametrize.register_parametrization(module, "scale", Counted())
    graph = trace(module, (WIDTH,))
    reads = 0
    graph.instance()
    assert 0 < reads <= 2 * depth  # each node's reader evaluates it once


def test_operators_are_made_once_to_choose_the_order_of_flattened_images() -> None:
    made = Counter[int]()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU())
    graph = trace(nn.Sequential(net, nn.Linear(5, 3)), (1, 4, 4))

    def counted(index: int) -> Any:
        step = graph.steps[index]
        if step.template is None:
            return step
        make = step.template.make

        def again() -> Operator:
            made[index] += 1
            return make()

        return replace(step, template=replace(step.template, make=again))

    assert pixel_major(tuple(counted(i) for i in range(len(graph.steps)))) == graph.pixel_major
    assert len(graph.pixel_major) == 1
    assert set(made.values()) == {1}
