"""Lines of operators that take several elements together touch what they enclose."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from taut.operators import Bounds, Lines, Maximum, Product, Square
from tests.soundness.harness import generator, normal, uniform


def boxes(seed: int, *shape: int) -> Bounds:
    g = generator(seed)
    center, radius = normal(g, 40, *shape), 0.1 + uniform(g, 40, *shape)
    return Bounds(center - radius, center + radius)


def at(lines: Lines, z: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate lines over the first axis behind the batch."""
    zero = torch.zeros(())
    low, high = lines.lower_intercept, lines.upper_intercept
    return (
        (lines.lower_slope * z).sum(1) + (zero if low is None else low),
        (lines.upper_slope * z).sum(1) + (zero if high is None else high),
    )


@pytest.mark.parametrize("kind", ["zero", "one", "adaptive"])
def test_planes_around_a_product_are_exact_at_three_corners(kind: str) -> None:
    """The fourth is missed by the area of the box: no plane can be closer everywhere."""
    bounds = boxes(1, 2)
    lines = Product(0).lines(bounds, kind)
    area = (bounds.upper - bounds.lower).prod(1)
    below, above = [], []
    for ends in itertools.product((False, True), repeat=2):
        corner = torch.where(torch.tensor(ends), bounds.upper, bounds.lower)
        low, high = at(lines, corner)
        below.append(corner.prod(1) - low)
        above.append(high - corner.prod(1))
    for gaps in (torch.stack(below), torch.stack(above)):
        ordered = gaps.sort(0).values
        torch.testing.assert_close(ordered[:3], torch.zeros_like(ordered[:3]), atol=1e-12, rtol=0)
        torch.testing.assert_close(ordered[3], area)


def test_the_adaptive_plane_has_the_better_worst_corner() -> None:
    bounds = boxes(2, 2)

    def least(kind: str) -> Tensor:
        lines = Product(0).lines(bounds, kind)
        ends = torch.where(lines.lower_slope > 0, bounds.lower, bounds.upper)
        return at(lines, ends)[0]

    def largest(kind: str) -> Tensor:
        lines = Product(0).lines(bounds, kind)
        ends = torch.where(lines.upper_slope > 0, bounds.upper, bounds.lower)
        return at(lines, ends)[1]

    torch.testing.assert_close(least("adaptive"), torch.maximum(least("zero"), least("one")))
    torch.testing.assert_close(largest("adaptive"), torch.minimum(largest("zero"), largest("one")))


def test_parallel_planes_around_a_product_are_as_close_as_the_box_allows() -> None:
    bounds = boxes(3, 2)
    lines = Product(0).lines(bounds, "same-slope")
    low, high = at(lines, torch.lerp(bounds.lower, bounds.upper, 0.5))
    torch.testing.assert_close(high - low, (bounds.upper - bounds.lower).prod(1) / 2)


def test_the_upper_line_of_a_maximum_touches_it_at_both_ends() -> None:
    """At the ends of the likely winner, with the best of the others at its upper bound."""
    bounds = boxes(4, 3)
    lines = Maximum(0).lines(bounds, "adaptive")
    winner = bounds.lower.argmax(1, keepdim=True)
    others = bounds.upper.scatter(1, winner, -torch.inf)
    bent = (lines.upper_slope > 0).any(1) & (others.amax(1) > bounds.lower.amax(1))
    assert 5 < int(bent.sum()) < 35
    for own in (bounds.lower, bounds.upper):
        z = bounds.upper.scatter(1, winner, own.gather(1, winner))
        _, high = at(lines, z)
        torch.testing.assert_close(high[bent], z.amax(1)[bent])


def test_the_line_of_a_maximum_is_the_winner_where_it_is_decided() -> None:
    bounds = boxes(5, 2)
    lines = Maximum(0).lines(bounds, "tight")
    sure = (bounds.lower > bounds.upper.flip(1)).any(1)
    assert 3 < int(sure.sum()) < 37
    assert not bool(Maximum(0).bends(bounds)[sure].any())
    z = torch.lerp(bounds.lower, bounds.upper, 0.3)
    for line in at(lines, z):
        torch.testing.assert_close(line[sure], z.amax(1)[sure])


def test_the_element_that_cannot_win_does_not_bend() -> None:
    """Better bounds of an element below the largest lower bound change nothing."""
    bounds = Bounds(torch.tensor([[0.0, 0.5, -2.0]]), torch.tensor([[1.0, 1.5, 0.4]]))
    assert Maximum(0).bends(bounds).tolist() == [[True, True, False]]


def test_a_square_is_enclosed_by_chord_and_tangent() -> None:
    bounds = Bounds(torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 3.0]))
    tight = Square().lines(bounds, "tight")
    assert tight.upper_slope.tolist() == [1.0, 3.5]
    assert tight.upper_intercept is not None
    assert tight.upper_intercept.tolist() == [2.0, -1.5]
    assert tight.lower_slope.tolist() == [0.0, 1.0]
    image = Square().image(bounds)
    assert image.lower.tolist() == [0.0, 0.25]
    assert image.upper.tolist() == [4.0, 9.0]
