"""Balls as sets: what they hold, what encloses them, what is nearest, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from ball_cases import F64, SEEDS, ball, images, points_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taut.errors import RegionError
from taut.region import PIXELS, Box, LpBall

ORDERS = st.sampled_from([1.0, 2.0])
EPS = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.5, 40.0])


def made(
    x: Tensor, eps: float | Tensor, p: float, data_range: tuple[float, float] | None
) -> LpBall:
    region = LpBall.around(x, eps, p, data_range)
    assert isinstance(region, LpBall)
    return region.check()


@pytest.mark.parametrize("p", [math.inf, "inf"])
@pytest.mark.parametrize("data_range", [None, PIXELS])
def test_the_ball_of_the_largest_pixel_is_the_box(
    p: float | str, data_range: tuple[float, float] | None
) -> None:
    x = torch.rand(2, 1, 3, 3)
    for eps in (0.3, torch.tensor([0.1, 0.2]), torch.rand(1, 3, 3)):
        box, same = LpBall.around(x, eps, p, data_range), Box.around(x, eps, data_range)
        assert isinstance(box, Box)
        assert box.exact_box
        assert box.box is box
        assert torch.equal(box.lower, same.lower)
        assert torch.equal(box.upper, same.upper)


@pytest.mark.parametrize("p", [1, 2])
def test_radii_per_image_and_per_pixel(p: int) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    each = made(x, torch.tensor([0.1, 0.2]), p, None)
    assert not each.exact_box
    torch.testing.assert_close(each.radius[1], torch.full((1, 2, 2), 0.2))
    at = x.clone()
    at[:, 0, 0, 0] += torch.tensor([0.09, 0.19])
    assert each.contains(at).tolist() == [True, True]
    assert each.contains(x + (at - x).flip(0)).tolist() == [False, True]
    pixel = torch.rand(1, 2, 2) * 0.3
    assert torch.equal(made(x, pixel, p, None).radius, pixel.expand(2, 1, 2, 2))


@settings(deadline=None)
@given(seed=SEEDS, p=ORDERS, eps=EPS, cut=st.booleans())
def test_the_enclosing_box_is_the_smallest(seed: int, p: float, eps: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    region = ball(g, p, eps, cut, 2, 5)
    axes = torch.eye(5, dtype=F64).expand(2, 5, 5)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(region.box.lower, region.minimum(axes), **close)
    torch.testing.assert_close(region.box.upper, -region.minimum(-axes), **close)


@settings(deadline=None)
@given(seed=SEEDS, p=ORDERS, eps=EPS, cut=st.booleans())
def test_membership_is_the_definition(seed: int, p: float, eps: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    region = ball(g, p, eps, cut, 3, 1, 2, 2)
    assert bool(region.contains(region.center).all())
    points = points_of(region, g, 10)
    for s in range(points.shape[1]):
        inner = torch.lerp(region.center, points[:, s], 1 - 1e-9)
        inner = torch.where(region.radius == 0, region.center, inner)
        assert bool(region.contains(inner).all())
        further = region.center + (points[:, s] - region.center) * 1.5
        weighed = torch.where(region.radius > 0, (further - region.center) / region.radius, 0)
        length = weighed.flatten(1).norm(p=p, dim=1)
        inside = (length <= 1) & ((further >= 0) & (further <= 1)).flatten(1).all(1) | (
            (length <= 1) & torch.tensor(not cut)
        )
        clear = (length - 1).abs() > 1e-9
        assert torch.equal(region.contains(further)[clear], inside[clear])


def test_a_pixel_without_radius_and_what_is_no_number_are_outside() -> None:
    x = torch.full((1, 3), 0.5)
    for p in (1, 2):
        region = made(x, torch.tensor([0.1, 0.0, 0.1]), p, PIXELS)
        assert not bool(region.contains(x + torch.tensor([0.0, 1e-7, 0.0])))
        assert not bool(region.contains(torch.tensor([[0.5, 0.5, math.nan]])))
        assert not bool(made(x, 1.0, p, PIXELS).contains(torch.tensor([[0.5, 0.5, 1.001]])))


@settings(deadline=None)
@given(seed=SEEDS, p=ORDERS, eps=EPS, cut=st.booleans(), far=st.sampled_from([0.1, 1, 100]))
def test_the_projection_is_inside_and_nearest(
    seed: int, p: float, eps: float, cut: bool, far: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    region = ball(g, p, eps, cut, 3, 1, 2, 3)
    y = region.center + far * torch.randn(3, 1, 2, 3, generator=g, dtype=F64)
    near = region.project(y)
    assert bool(region.contains(near).all())
    # nearest in a convex set: no point of the set lies further in the direction that is left
    left = y - near
    furthest = -region.minimum(-left[:, None])[:, 0]
    reached = (left * near).flatten(1).sum(1)
    assert bool((reached >= furthest - 1e-9 * (1 + left.abs().flatten(1).sum(1))).all())
    for s in range(5):
        point = points_of(region, g, 5)[:, s]
        assert torch.allclose(region.project(point), point, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(seed=SEEDS, p=ORDERS, eps=st.sampled_from([1e-6, 0.01, 0.5, 3.0]), cut=st.booleans())
def test_projections_of_single_precision_are_inside(
    seed: int, p: float, eps: float, cut: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = images(g, 4, 30).float()
    region = made(x, eps, p, PIXELS if cut else None)
    y = x + 2 * torch.randn(4, 30, generator=g)
    near = region.project(y)
    assert near.dtype == torch.float32
    assert bool(region.contains(near).all())
    exact = region.to(dtype=F64).project(y.double())
    torch.testing.assert_close(near.double(), exact, rtol=0, atol=3e-7)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("p", [1, 2])
def test_groups_are_chosen_and_repeated(p: int, cut: bool) -> None:
    g = torch.Generator().manual_seed(p)
    region = ball(g, p, 0.7, cut, 4, 1, 2, 3)
    a = torch.randn(4, 2, 1, 2, 3, generator=g, dtype=F64)
    assert len(region) == 4
    assert region.shape == (4, 1, 2, 3)
    assert region.dtype == F64
    assert region.device == torch.device("cpu")
    chosen = torch.tensor([2, 0, 2])
    whole = region.minimum(a)
    close = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(region[chosen].minimum(a[chosen]), whole[chosen], **close)
    torch.testing.assert_close(region[1:3].minimum(a[1:3]), whole[1:3], **close)
    assert len(region[:0]) == 0
    assert region[:0].minimum(a[:0]).shape == (0, 2)
    assert region.minimum(a[:, :0]).shape == (4, 0)
    single = region.to(dtype=torch.float32)
    assert single.dtype == torch.float32
    assert (single.p, single.bounds is None) == (p, not cut)


@pytest.mark.parametrize("p", [0, 0.5, 3, -1, math.nan, "two", ""])
def test_other_norms_are_refused(p: float | str) -> None:
    with pytest.raises(RegionError, match="1, 2 or inf") as caught:
        LpBall.around(torch.rand(2, 3), 0.1, p)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, torch.tensor([0.1, -1.0])])
def test_a_radius_that_is_none_is_refused(p: float, eps: float | Tensor) -> None:
    with pytest.raises(RegionError, match="eps"):
        LpBall.around(torch.rand(2, 3), eps, p)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("value", [1.5, -0.01, math.nan])
def test_images_outside_the_pixel_range_are_refused(p: float, value: float) -> None:
    x = torch.rand(2, 3)
    x[1, 1] = value
    with pytest.raises(RegionError, match="pixel range"):
        LpBall.around(x, 0.1, p)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_radii_that_do_not_fit_are_refused(p: float) -> None:
    for eps in (torch.rand(2, 4), torch.rand(4), torch.rand(5, 2, 3)):
        with pytest.raises(RegionError, match="does not fit") as caught:
            LpBall.around(torch.rand(2, 3), eps, p)
        assert "\n" not in str(caught.value)


def test_malformed_balls_are_refused() -> None:
    x = torch.full((2, 3), 0.5)
    box = Box(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(RegionError, match="boxes"):
        LpBall(x, x, math.inf)
    with pytest.raises(RegionError, match="shape"):
        LpBall(x, torch.ones(2, 4), 2)
    with pytest.raises(RegionError, match="shape"):
        LpBall(x[0], x[0], 2)
    with pytest.raises(RegionError, match="shape"):
        LpBall(x, x, 2, Box(torch.zeros(2, 4), torch.ones(2, 4)))
    with pytest.raises(RegionError, match="type"):
        LpBall(x, x.double(), 1)
    with pytest.raises(RegionError, match="type"):
        LpBall(x, x, 1, box.to(dtype=F64))
    with pytest.raises(RegionError, match="negative"):
        LpBall(x, -x, 1).check()
    with pytest.raises(RegionError, match="negative or not finite"):
        LpBall(x, x / 0, 1).check()
    with pytest.raises(RegionError, match="center that is not finite"):
        LpBall(x * math.nan, x, 1).check()
    with pytest.raises(RegionError, match="outside its bounds"):
        LpBall(x + 1, x, 1, box).check()
    with pytest.raises(RegionError, match="above"):
        LpBall(x, x, 1, Box(box.upper, box.lower)).check()
