"""Zonotopes: memory within the budget, gradients, and calls that leave nothing behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from taut.bounds import propagate
from taut.bounds.zonotope import BudgetError, Zonotope, _Room, _Walk
from taut.errors import ConfigError, TautError
from taut.graph import trace
from tests.soundness.harness import (
    EVERY_ZONOTOPE,
    assert_gradients,
    generator,
    labelled_boxes,
    random_box,
    random_module,
    traced,
)


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", ["conv", "residual"])
def test_the_budget_changes_no_bound(kind: str, method: Zonotope) -> None:
    net = traced(kind, 2).detached()
    box, y = labelled_boxes(net, 2, 7, 0.4)
    whole, known = method.margins(net, box, y), method.intermediate(net, box)
    sizes = []
    for budget in (2**14, 2**16, 2**18, 2**20):
        split = Zonotope(method.hybrid, method.intersect, budget)
        try:
            margins, parts = split.margins(net, box, y), split.intermediate(net, box)
        except BudgetError:
            continue
        sizes.append(budget)
        torch.testing.assert_close(margins, whole, rtol=1e-12, atol=1e-12)
        for index in net.bent():
            torch.testing.assert_close(parts.at(index).lower, known.at(index).lower)
            torch.testing.assert_close(parts.at(index).upper, known.at(index).upper)
    assert 1 <= len(sizes) < 4  # from too little for one image to enough for several


def test_an_image_that_does_not_fit_is_refused() -> None:
    module, shape = random_module("conv", 2)
    net = trace(module, shape).instance().detached()
    box = random_box(generator(2), 3, *shape, scale=0.4)
    y = net(box.center).argmax(1)
    with pytest.raises(BudgetError, match=r"of one image need at least .* hybrid=True") as failure:
        Zonotope(budget=1).margins(net, box, y)
    assert isinstance(failure.value, TautError)
    assert isinstance(failure.value, MemoryError)  # a cascade makes it a verdict, not a crash
    with pytest.raises(BudgetError, match=r"a larger budget$"):
        Zonotope(hybrid=True, budget=1).margins(net, box, y)
    live = trace(module, shape).instance()
    with pytest.raises(BudgetError, match=r"3 images with gradients .* a smaller batch"):
        Zonotope(budget=2**18).margins(live, box, y)
    with pytest.raises(ConfigError, match="positive number of bytes"):
        Zonotope(budget=0)


def test_memory_follows_the_images_and_what_they_keep() -> None:
    """What a walk says it holds is what its enclosures hold together."""
    net = traced("deep", 2).detached()
    box = random_box(generator(2), 3, *net.input_shape, scale=0.4)
    known = {index: propagate(net, box).at(index) for index in net.bent()}
    room = _Room(2**30, box.lower, False)
    for _, element, _ in _Walk(net, known, Zonotope(), room).over(box, net.output.index):
        assert room.held == element.size  # of a chain only the last is alive
    kept = _Room(2**30, box.lower, True)
    made = sum(
        element.size
        for _, element, _ in _Walk(net, known, Zonotope(), kept).over(box, net.output.index)
    )
    assert kept.held == made


def test_errors_that_are_not_numbers_stay() -> None:
    """NaN in a bound reaches the margins; it is never lost among the generators."""
    net = traced("deep", 2).detached()
    box = random_box(generator(2), 2, *net.input_shape, scale=0.4)
    walk = _Walk(net, {}, Zonotope(), _Room(2**30, box.lower, False))
    block = walk._block(torch.tensor([[0.0, math.nan, 1.0], [0.0, 0.0, 2.0]]))
    assert block is not None
    assert block.shape == (2, 2, 3)
    assert bool(block[0, 0, 1].isnan())
    assert block[0, 1].tolist() == [0.0, 0.0, 1.0]
    assert block[1].tolist() == [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    assert walk._block(torch.zeros(2, 3)) is None


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", ["deep", "conv", "norm", "residual"])
def test_gradients_equal_finite_differences(kind: str, method: Zonotope) -> None:
    module, shape = random_module(kind, 4)
    box = random_box(generator(4), 2, *shape, scale=0.3)
    graph = trace(module, shape)
    y = module(box.center).argmax(1)

    def loss() -> Tensor:
        margins = method.margins(graph.instance(), box, y)
        return margins[torch.isfinite(margins)].sum()

    assert_gradients(loss, module)


@EVERY_ZONOTOPE
def test_calls_leave_nothing_behind(method: Zonotope) -> None:
    module, shape = random_module("residual", 9)
    graph = trace(module, shape)
    box = random_box(generator(9), 3, *shape, scale=0.2)
    ends = box.lower.clone(), box.upper.clone()
    y = module(box.center).argmax(1)
    first = method.margins(graph.instance(), box, y)
    assert torch.equal(first, method.margins(graph.instance(), box, y))
    with torch.no_grad():
        torch.testing.assert_close(first.detach(), method.margins(graph.instance(), box, y))
    assert torch.equal(box.lower, ends[0])
    assert torch.equal(box.upper, ends[1])
