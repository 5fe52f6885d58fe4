"""Zonotopes: sound, equal to same-slope substitution, and independent of the budget."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taut.bounds import IBP, Backward, backward, interval, propagate, refine
from taut.bounds.tail import merged
from taut.bounds.zonotope import Zonotope, _Room, _Walk
from taut.graph import Network, Node, trace
from taut.operators import Add, Linear, ReLU, Scale
from taut.property import margin_rows, true_margins
from taut.region import Box, LpBall
from tests.counts import cases
from tests.soundness.harness import (
    EVERY_ZONOTOPE,
    KINDS,
    SEEDS,
    around_operator,
    assert_sound,
    assert_sound_in_float32,
    case,
    evaluate,
    every_case,
    generator,
    labelled_boxes,
    least_margins,
    normal,
    points_of,
    random_box,
    random_module,
    sphere,
    traced,
    uniform,
)


@pytest.mark.parametrize("method", [Zonotope(), Zonotope(hybrid=True, intersect=False)])
@pytest.mark.parametrize(("name", "number"), every_case())
@settings(max_examples=cases(2), deadline=None)
@given(seed=SEEDS)
def test_every_operator(name: str, number: int, method: Zonotope, seed: int) -> None:
    g = generator(seed)
    net = around_operator(case(name, number, seed), g)
    box = random_box(g, 3, 5, scale=0.5)
    assert_sound(net, box, method, evaluate(net, points_of(box, g)))


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(5), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.01, 0.1, 0.5]))
def test_traced_networks(kind: str, method: Zonotope, seed: int, scale: float) -> None:
    net = traced(kind, seed)
    box = random_box(generator(seed), 3, *net.input_shape, scale=scale)
    assert_sound(net, box, method, evaluate(net, points_of(box, generator(seed))))


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_has_its_own_margins(kind: str, method: Zonotope) -> None:
    module, shape = random_module(kind, 11)
    x = uniform(generator(11), 4, *shape)
    logits = module(x)
    y = logits.argmax(1)
    net, box = trace(module, shape).instance(), Box.around(x, 0.0)
    margins = method.margins(net, box, y)
    torch.testing.assert_close(margins, true_margins(logits, y), rtol=1e-9, atol=1e-9)
    outputs = method.outputs(net, box)
    torch.testing.assert_close(outputs.lower, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outputs.upper, logits, rtol=1e-9, atol=1e-9)


@EVERY_ZONOTOPE
def test_a_ball_is_bounded_through_its_box(method: Zonotope) -> None:
    module, shape = random_module("conv", 3)
    net = trace(module, shape).instance()
    g = generator(3)
    x = uniform(g, 3, *shape)
    ball = LpBall.around(x, 0.3, 2, data_range=None)
    y = module(x).argmax(1)
    points = sphere(x, 0.3, g, 500)
    logits = module(points.flatten(0, 1)).unflatten(0, (500, 3))
    least = least_margins(logits, y)
    margins = method.margins(net, ball, y)
    assert bool((margins <= least + 1e-9).all())
    boxed = method.margins(net, ball.box, y)
    slack = 1e-9 * (1 + least.where(torch.isfinite(least), 0).abs())
    if method.intersect:
        assert bool((margins > boxed + slack).any())  # exact ranges of the first layer help
    else:
        torch.testing.assert_close(margins, boxed)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.05, 0.3, 1.0]))
def test_deepz_is_same_slope_substitution_at_every_layer(
    kind: str, seed: int, scale: float
) -> None:
    """DeepZ equals Fast-Lin: forward with shared errors, or rows back to the input."""
    net = traced(kind, seed).detached()
    box, y = labelled_boxes(net, seed, 3, scale)
    zonotope = Zonotope(intersect=False)
    crown = refine(propagate(net, box), ("same-slope",), everywhere=True)
    found = zonotope.intermediate(net, box)
    for index in net.bent():
        one, other = found.at(index), crown.at(index)
        torch.testing.assert_close(one.lower, other.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.upper, other.upper, rtol=1e-9, atol=1e-9)
    rows = backward.margins(net, crown, y, "same-slope")
    torch.testing.assert_close(zonotope.margins(net, box, y), rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "number"), [c for c in every_case() if case(*c, 0).operator.name != "relu"]
)
def test_deepz_is_same_slope_substitution_through_every_operator(name: str, number: int) -> None:
    net = around_operator(case(name, number, 5), generator(5))
    box = random_box(generator(5), 3, 5, scale=0.3)
    y = net(box.center).argmax(1)
    found = Zonotope().intermediate(net, box)
    assert any(found.refined)
    rows = backward.margins(net, found, y, "same-slope")
    torch.testing.assert_close(Zonotope().margins(net, box, y), rows, rtol=1e-8, atol=1e-8)


def lone(slope: float, bias: float) -> Network:
    """Return ``relu(x + bias)`` beside ``slope x`` summed up: two logits, the second zero."""
    eye, zero = torch.ones(1, 1).double(), torch.zeros(1).double()
    return Network(
        (
            Node(0, "x", None, (), (1,)),
            Node(1, "z", Linear(eye, torch.full((1,), bias).double()), (0,), (1,)),
            Node(2, "a", ReLU(), (1,), (1,)),
            Node(3, "b", Linear(slope * eye, zero), (0,), (1,)),
            Node(4, "sum", Add(), (2, 3), (1,)),
            Node(5, "out", Linear(torch.tensor([[1.0], [0.0]]).double(), None), (4,), (2,)),
        )
    )


def test_deepz_and_intervals_are_not_ordered() -> None:
    """By hand over [-1, 1]: relu(x) is x/2 + 1/4 +- 1/4, and shared terms cancel.

    relu(x) lies in [-1/2, 1] for the zonotope and in [0, 1] for intervals; relu(x) - x/2 in
    [0, 1/2] and in [-1/2, 3/2].
    """
    box = Box(torch.full((1, 1), -1.0).double(), torch.full((1, 1), 1.0).double())
    for slope, zonotope, intervals in (
        (0.0, (-0.5, 1.0), (0.0, 1.0)),
        (-0.5, (0, 0.5), (-0.5, 1.5)),
    ):
        net = lone(slope, 0.0)
        for method, (low, high) in ((Zonotope(), zonotope), (IBP(), intervals)):
            outputs = method.outputs(net, box)
            assert math.isclose(float(outputs.lower[0, 0]), low, abs_tol=1e-12)
            assert math.isclose(float(outputs.upper[0, 0]), high, abs_tol=1e-12)


def test_a_hybrid_forgets_what_errors_share() -> None:
    """relu(x) - relu(x) + 1 is 1 for DeepZ; a hybrid counts the error of 1/4 twice.

    Another activation behind it keeps rows from being merged across the difference.
    """
    one = torch.ones(1).double()
    net = lone(0.0, 0.0)
    nodes = (
        *net.nodes[:4],
        Node(4, "difference", Add(-1.0), (2, 2), (1,)),
        Node(5, "one", Scale(None, one), (4,), (1,)),
        Node(6, "relu", ReLU(), (5,), (1,)),
        Node(7, "out", Linear(torch.tensor([[1.0], [0.0]]).double(), None), (6,), (2,)),
    )
    box = Box(torch.full((1, 1), -1.0).double(), torch.full((1, 1), 1.0).double())
    for hybrid, width in ((False, 0.0), (True, 0.5)):
        outputs = Zonotope(hybrid).outputs(Network(nodes), box)
        assert math.isclose(float(outputs.lower[0, 0]), 1 - width, abs_tol=1e-12)
        assert math.isclose(float(outputs.upper[0, 0]), 1 + width, abs_tol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(8), deadline=None)
@given(seed=SEEDS)
def test_a_hybrid_keeps_its_generators_and_is_no_tighter(kind: str, seed: int) -> None:
    """One generator per moving pixel throughout; on the same lines it contains DeepZ."""
    net = traced(kind, seed).detached()
    box = random_box(generator(seed), 3, *net.input_shape, scale=0.4)
    most = int((box.radius > 0).flatten(1).sum(1).amax())
    known = {index: propagate(net, box).at(index) for index in net.bent()}
    walks = {
        hybrid: _Walk(net, known, Zonotope(hybrid), _Room(2**30, box.lower, False))
        for hybrid in (False, True)
    }
    end = net.output.index
    for (_, free, _), (_, mixed, _) in zip(
        walks[False].over(box, end), walks[True].over(box, end), strict=True
    ):
        assert {source: block.shape[1] for source, block in mixed.generators.items()} == {0: most}
        assert set(free.generators) >= set(mixed.generators)
    first = list(net.bent())[:2]  # up to the second layer both stand on the same ranges
    one, two = (Zonotope(h, intersect=False).intermediate(net, box) for h in (False, True))
    for index in first:
        assert bool((two.at(index).lower <= one.at(index).lower + 1e-9).all())
        assert bool((two.at(index).upper >= one.at(index).upper - 1e-9).all())


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(5), deadline=None)
@given(seed=SEEDS)
def test_margins_are_no_looser_than_the_logits_box(kind: str, method: Zonotope, seed: int) -> None:
    net = traced(kind, seed)
    box, y = labelled_boxes(net, seed, 3, 0.4)
    outputs = method.outputs(net, box)
    plain = outputs.lower.gather(1, y[:, None]) - outputs.upper
    margins = method.margins(net, box, y)
    others = torch.isfinite(margins)
    assert bool((margins[others] >= plain[others] - 1e-9).all())


@EVERY_ZONOTOPE
def test_merging_helps(method: Zonotope) -> None:
    net = traced("conv", 3).detached()
    box, y = labelled_boxes(net, 3, 3, 0.4)
    outputs = method.outputs(net, box)
    plain = outputs.lower.gather(1, y[:, None]) - outputs.upper
    assert bool((method.margins(net, box, y) > plain + 1e-3).all())


@EVERY_ZONOTOPE
@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_sound_up_to_rounding(kind: str, method: Zonotope) -> None:
    assert_sound_in_float32(kind, method)


@pytest.mark.parametrize("kind", ["deep", "conv", "norm"])
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_hybrid_margins_merge_with_the_last_layer(kind: str, seed: int) -> None:
    """Never looser than rows on the hybrid zonotope of the logits themselves."""
    net = traced(kind, seed).detached()
    box, y = labelled_boxes(net, seed, 3, 0.4)
    method = Zonotope(hybrid=True)
    known = {index: propagate(net, box).at(index) for index in net.bent()}
    walk = _Walk(net, known, method, _Room(2**30, box.lower, False))
    *_, (_, logits, _) = walk.over(box, net.output.index)
    assert logits.box is not None
    rows = margin_rows(y, net.classes, box.lower)
    plain = torch.einsum("brk,bk->br", rows, logits.center)
    plain = plain - torch.einsum("brk,bgk->brg", rows, logits.generators[0]).abs().sum(2)
    plain = plain - torch.einsum("brk,bk->br", rows.abs(), logits.box)
    margins = method.margins(net, box, y)
    merged_ones = margins[torch.isfinite(margins)].view_as(plain)
    assert bool((merged_ones >= plain - 1e-9).all())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_merged_with_the_tail_are_the_logits_rows(kind: str) -> None:
    """On points, what rows pulled back say of the nodes equals what they say of the logits."""
    net = traced(kind, 7).detached()
    x = normal(generator(7), 3, *net.input_shape)
    rows = normal(generator(8), 3, 2, net.classes)
    values: list[Tensor] = [x]
    for node in net.nodes[1:]:
        assert node.operator is not None
        values.append(node.operator.forward(*(values[i] for i in node.inputs)))
    landings, constant = merged(net, rows)
    assert constant is not None
    total = constant
    for index, form in landings.items():
        total = total + torch.einsum("brn,bn->br", form.flatten(2), values[index].flatten(1))
    torch.testing.assert_close(total, torch.einsum("brk,bk->br", rows, values[-1]))
    assert (landings.keys() == {0}) == (kind == "linear")


@EVERY_ZONOTOPE
def test_a_network_may_end_with_an_activation(method: Zonotope) -> None:
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU()).double()
    net = trace(module, (5,)).instance()
    box = random_box(generator(2), 3, 5, scale=0.5)
    assert_sound(net, box, method, evaluate(net, points_of(box, generator(2))))


def test_cutting_with_intervals_helps_and_never_hurts_a_range() -> None:
    """Each activation's range lies in the interval's; somewhere the margins gain."""
    gained = 0
    for seed in range(10):
        net = traced("deep", seed).detached()
        box = random_box(generator(seed), 3, *net.input_shape, scale=0.4)
        inter, found = propagate(net, box), Zonotope().intermediate(net, box)
        for index in net.bent():
            assert bool((found.at(index).lower >= inter.at(index).lower - 1e-12).all())
            assert bool((found.at(index).upper <= inter.at(index).upper + 1e-12).all())
        y = net(box.center).argmax(1)
        cut = Zonotope().margins(net, box, y)
        gained += int((cut > Zonotope(intersect=False).margins(net, box, y) + 1e-9).any())
    assert gained > 0


def test_its_ranges_serve_other_methods() -> None:
    """CROWN on a zonotope's ranges is sound and at least as good on average as on IBP's."""
    net = traced("deep", 1).detached()
    box = random_box(generator(1), 3, *net.input_shape, scale=0.3)
    logits = evaluate(net, points_of(box, generator(2)))
    y = logits[0].argmax(1)
    found = Zonotope().intermediate(net, box)
    tight = backward.margins(net, found, y, "tight")
    assert bool((tight <= least_margins(logits, y) + 1e-9).all())
    assert bool((tight >= Backward("ibp", "tight").margins(net, box, y) - 1e-9).all())
    assert bool((tight >= interval.margins(net, found, y) - 1e-9).all())
