"""Minima of linear forms over balls: exact, attained, and never above the truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ball_cases import F64, SEEDS, applied, ball, coefficients, euclidean, greedy, images, points_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from taut.errors import RegionError
from taut.region import PIXELS, Box, LpBall, Region
from tests.counts import cases

ORDERS = st.sampled_from([1.0, 2.0])
EPS = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.5, 40.0])
KINDS = [(p, cut) for p in (1.0, 2.0, math.inf) for cut in (False, True)]


def any_region(p: float, cut: bool, g: torch.Generator, *shape: int) -> Region:
    radii = 0.1 + torch.rand(shape, generator=g, dtype=F64)
    return LpBall.around(images(g, *shape), radii, p, PIXELS if cut else None)


@settings(deadline=None)
@given(seed=SEEDS, pixels=st.integers(1, 9), eps=st.floats(0, 3))
@pytest.mark.parametrize(("p", "q"), [(1, math.inf), (2, 2), (math.inf, 1), ("inf", 1)])
def test_the_ball_alone_has_the_dual_norm_and_its_maximiser(
    p: float | str, q: float, seed: int, pixels: int, eps: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    x, a = images(g, 2, pixels), coefficients(g, 2, 3, pixels)
    found = LpBall.around(x, eps, p, None).minimum(a)
    norm = torch.linalg.vector_norm(a, ord=q, dim=2, keepdim=True)
    if p == 1:
        direction = torch.zeros_like(a).scatter_(2, a.abs().argmax(2, keepdim=True), 1) * a.sign()
    else:
        direction = a / norm.where(norm > 0, 1) if p == 2 else a.sign()
    best = x[:, None] - eps * direction
    length = torch.linalg.vector_norm(best - x[:, None], ord=float(p), dim=2)
    assert bool((length <= eps * (1 + 1e-12) + 1e-14).all())
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found, (a * best).sum(2), **close)
    torch.testing.assert_close(found, (a * x[:, None]).sum(2) - eps * norm.squeeze(2), **close)


@settings(deadline=None)
@given(seed=SEEDS, pixels=st.integers(1, 8), eps=EPS, cut=st.booleans())
def test_l1_equals_rational_arithmetic(seed: int, pixels: int, eps: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    region, a = ball(g, 1, eps, cut, 1, pixels), coefficients(g, 1, 3, pixels)
    found = region.minimum(a)
    x, r = region.center[0].tolist(), region.radius[0].tolist()
    for row, value in zip(a[0].tolist(), found[0].tolist(), strict=True):
        exact = greedy(row, x, r, region.bounds)
        size = 1 + sum(abs(s) * (1 + t) for s, t in zip(row, r, strict=True))
        assert abs(Fraction(value) - exact) <= 1e-14 * size


@settings(max_examples=cases(30), deadline=None)
@given(seed=SEEDS, pixels=st.integers(1, 8), eps=EPS)
def test_l1_cut_equals_the_linear_program(seed: int, pixels: int, eps: float) -> None:
    g = torch.Generator().manual_seed(seed)
    region, a = ball(g, 1, eps, True, 1, pixels), torch.randn(1, 1, pixels, generator=g, dtype=F64)
    x, r, row = (t.flatten().numpy() for t in (region.center, region.radius, a))
    # x' = x + r (u - w) with u, w >= 0 and sum(u + w) <= 1, inside the pixel range
    wide = np.concatenate([r, -r])
    moves = np.concatenate([np.diag(r), -np.diag(r)], axis=1)
    solved = linprog(
        np.concatenate([row, row]) * wide,
        A_ub=np.concatenate([np.ones((1, 2 * pixels)), moves, -moves]),
        b_ub=np.concatenate([[1.0], 1 - x, x]),
    )
    assert solved.success
    assert float(region.minimum(a)) == pytest.approx(solved.fun + row @ x, abs=1e-8)


@settings(deadline=None)
@given(seed=SEEDS, pixels=st.integers(1, 9), eps=EPS)
def test_l2_cut_equals_the_sorted_breakpoints(seed: int, pixels: int, eps: float) -> None:
    g = torch.Generator().manual_seed(seed)
    region, a = ball(g, 2, eps, True, 1, pixels), coefficients(g, 1, 3, pixels)
    assert region.bounds is not None
    x, r = region.center[0].tolist(), region.radius[0].tolist()
    for row, value in zip(a[0].tolist(), region.minimum(a)[0].tolist(), strict=True):
        point, multiplier = euclidean(row, x, r, region.bounds)
        moved = [(z - m) / t for z, m, t in zip(point, x, r, strict=True) if t > 0]
        length = math.fsum(u * u for u in moved)
        # feasible and stationary: the conditions of Karush, Kuhn and Tucker
        assert all(-1e-12 <= z <= 1 + 1e-12 for z in point)
        assert length <= 1 + 1e-9
        assert multiplier == 0 or length == pytest.approx(1, abs=1e-9)
        for s, z, m, t in zip(row, point, x, r, strict=True):
            pull = s + (multiplier * (z - m) / t**2 if t > 0 else 0)
            if t > 0 and 1e-12 < z < 1 - 1e-12:
                assert pull == pytest.approx(0, abs=1e-9 * (1 + abs(s)))
        best = math.fsum(s * z for s, z in zip(row, point, strict=True))
        size = 1 + math.fsum(abs(s) for s in row)
        assert value <= best + 1e-12 * size
        assert value >= best - 1e-12 * size


@settings(max_examples=cases(15), deadline=None)
@given(seed=SEEDS, pixels=st.integers(2, 6), eps=st.floats(0.2, 2))
def test_l2_cut_agrees_with_a_general_convex_solver(seed: int, pixels: int, eps: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, a = images(g, 1, pixels), torch.randn(1, 1, pixels, generator=g, dtype=F64)
    start, row = x[0].numpy(), a[0, 0].numpy()
    solved = minimize(
        lambda z: row @ z,
        start,
        jac=lambda z: row,
        bounds=[PIXELS] * pixels,
        constraints={
            "type": "ineq",
            "fun": lambda z: eps**2 - ((z - start) ** 2).sum(),
            "jac": lambda z: -2 * (z - start),
        },
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert float(LpBall.around(x, eps, 2).minimum(a)) == pytest.approx(solved.fun, abs=1e-5)


@settings(deadline=None)
@given(seed=SEEDS, p=ORDERS, eps=EPS, cut=st.booleans())
def test_no_point_of_the_set_is_below_and_the_gradient_is_the_lowest(
    seed: int, p: float, eps: float, cut: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    region = ball(g, p, eps, cut, 2, 1, 2, 3)
    a = coefficients(g, 2, 4, 1, 2, 3).requires_grad_()
    found = region.minimum(a)
    rows, size = a.detach(), 1 + a.detach().abs().flatten(2).sum(2) * (2 + eps)
    points = points_of(region, g, 40)
    near = region.project(torch.randn(2, 1, 2, 3, generator=g, dtype=F64) * (eps + 1))
    points = torch.cat([points, near[:, None], region.center[:, None]], 1)
    assert bool(
        (found.detach()[..., None] <= applied(rows, points) + 1e-13 * size[..., None]).all()
    )
    (best,) = torch.autograd.grad(found.sum(), a)
    value = (rows * best).flatten(2).sum(2)
    torch.testing.assert_close(found.detach(), value, rtol=0, atol=float(1e-12 * size.max()))
    for row in range(4):
        inside = region.project(best[:, row])
        torch.testing.assert_close(inside, best[:, row], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("eps", [0.01, 0.7, 3.0, 12.0])
@pytest.mark.parametrize("spread", [0, 3, 12])
def test_large_images_close_the_duality_gap(p: int, eps: float, spread: int) -> None:
    g = torch.Generator().manual_seed(p * 100 + spread)
    region = LpBall.around(images(g, 20, 3, 12, 12), eps, p)
    a = torch.randn(20, 9, 3, 12, 12, generator=g, dtype=F64)
    a = (a * 10 ** (-spread * torch.rand(a.shape, generator=g, dtype=F64))).requires_grad_()
    found = region.minimum(a)
    (best,) = torch.autograd.grad(found.sum(), a)
    assert bool(((best >= -1e-15) & (best <= 1 + 1e-15)).all())
    moved = (best - region.center[:, None]).flatten(2).norm(p=p, dim=2)
    assert bool((moved <= eps * (1 + 1e-9)).all())
    gap = (a * best).flatten(2).sum(2) - found
    size = (a * best).abs().flatten(2).sum(2)
    assert bool((gap <= 1e-12 * size).all())
    assert bool((gap >= -1e-12 * size).all())
    # the parts of the batch that are worked on together make no difference
    for n in (0, 13):
        alone = region[n : n + 1].minimum(a[n : n + 1, 4:5])
        torch.testing.assert_close(alone, found[n : n + 1, 4:5], rtol=1e-13, atol=1e-13)


def test_a_long_geometric_row_is_searched_to_the_end() -> None:
    pixels = 900
    a = (0.97 ** torch.arange(pixels, dtype=F64)).view(1, 1, -1).requires_grad_()
    region = LpBall.around(torch.full((1, pixels), 0.03, dtype=F64), 0.85, 2)
    found = region.minimum(a)
    (best,) = torch.autograd.grad(found.sum(), a)
    found, a = found.detach(), a.detach()
    assert float((best - 0.03).norm()) == pytest.approx(0.85, rel=1e-12)
    assert float((a * best).sum()) == pytest.approx(float(found), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, "inf"])
@settings(deadline=None)
@given(seed=SEEDS, eps=st.floats(0, 1))
def test_at_black_and_white_pixels_the_outer_half_adds_nothing(
    p: float | str, seed: int, eps: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (2, 7), generator=g).to(F64)
    a = torch.randn(2, 3, 7, generator=g, dtype=F64)
    inward = torch.where(x[:, None] == 0, (-a).clamp(min=0), a.clamp(min=0))
    q = {1: math.inf, 2: 2, "inf": 1}[p]
    formula = (a * x[:, None]).sum(2) - eps * torch.linalg.vector_norm(inward, ord=q, dim=2)
    region = LpBall.around(x, eps, p)
    torch.testing.assert_close(region.minimum(a), formula, rtol=1e-12, atol=1e-12)
    outward = a.abs() * torch.where(x[:, None] == 0, 1.0, -1.0)
    still = torch.bmm(outward, x[:, :, None]).squeeze(2)
    assert torch.equal(region.minimum(outward), still) or (
        p == "inf" and torch.allclose(region.minimum(outward), still, rtol=1e-14, atol=1e-14)
    )


@pytest.mark.parametrize(("p", "cut"), KINDS)
def test_windows_leave_out_what_lies_outside_the_image(p: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(int(10 * min(p, 5)) + cut)
    region = any_region(p, cut, g, 3, 2, 5, 5)
    a = torch.randn(3, 4, 2, 3, 3, generator=g, dtype=F64)
    for top, left in ((-1, -2), (1, 1), (3, 4), (-1, 3)):

        def window(t: Tensor) -> Tensor:
            padded = F.pad(t, (3, 3, 3, 3))
            return padded[:, :, top + 3 : top + 6, left + 3 : left + 6]

        whole = torch.zeros(3, 4, 2, 11, 11, dtype=F64)
        whole[..., top + 3 : top + 6, left + 3 : left + 6] = a
        inside = window(torch.ones(3, 2, 5, 5, dtype=F64))[:, None]
        huge = torch.where(inside == 0, 1e200, a)
        expected = region.minimum(whole[..., 3:8, 3:8])
        part = region.each(window)
        assert part.shape == (3, 2, 3, 3)
        torch.testing.assert_close(part.minimum(a), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part.minimum(huge), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "cut"), KINDS)
def test_gradients_equal_finite_differences(p: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(3)
    region = any_region(p, cut, g, 2, 2, 2, 2)
    a = torch.randn(2, 3, 2, 2, 2, generator=g, dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(region.minimum, (a,), eps=1e-7, atol=1e-5)


def test_a_box_passes_gradients_to_its_ends() -> None:
    g = torch.Generator().manual_seed(4)
    a = torch.randn(2, 3, 5, generator=g, dtype=F64, requires_grad=True)
    low = torch.rand(2, 5, generator=g, dtype=F64, requires_grad=True)
    high = (1 + torch.rand(2, 5, generator=g, dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, lo, hi: Box(lo, hi).minimum(r), (a, low, high))


@settings(deadline=None)
@given(seed=SEEDS)
def test_a_box_takes_the_end_that_its_row_asks_for(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    box = Box.around(images(g, 2, 1, 3, 2), torch.rand(2, 1, 3, 2, generator=g, dtype=F64))
    a = coefficients(g, 2, 4, 1, 3, 2)
    ends = torch.where(a > 0, box.lower[:, None], box.upper[:, None])
    torch.testing.assert_close(box.minimum(a), (a * ends).flatten(2).sum(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "cut"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_degenerate_sets_have_finite_values_and_gradients(
    p: float, cut: bool, dtype: torch.dtype
) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5, 0.25], [0.5, 0.5, 0.5, 0.5]], dtype=dtype)
    rows = torch.tensor([[0.0] * 4, [1.0] * 4, [-2, 0, 2, 0], [1e-30, 0, 1e-30, 0]], dtype=dtype)
    for eps in (0.0, 1e-30, 0.5, torch.tensor([0.0, 0.5, 0.0, 0.5])):
        region = LpBall.around(x, eps, p, PIXELS if cut else None)
        a = rows.expand(2, 4, 4).clone().requires_grad_()
        found = region.minimum(a)
        found.sum().backward()
        assert a.grad is not None
        assert bool(torch.isfinite(found).all())
        assert bool(torch.isfinite(a.grad).all())
        assert torch.equal(found[:, 0], torch.zeros(2, dtype=dtype))
        for row in range(4):
            torch.testing.assert_close(region.project(a.grad[:, row]), a.grad[:, row])
        if isinstance(eps, float) and eps == 0:
            exact = torch.bmm(rows.expand(2, 4, 4), x[:, :, None]).squeeze(2)
            assert torch.equal(found, exact)


def test_fixed_pixels_within_bounds_stay() -> None:
    x = torch.tensor([[0.2, 0.6, 0.4]], dtype=F64)
    bounds = Box(
        torch.tensor([[0.2, 0.0, 0.4]], dtype=F64), torch.tensor([[0.2, 1, 0.4]], dtype=F64)
    )
    a = torch.tensor([[[9.0, 2.0, -7.0]]], dtype=F64)
    for p in (1, 2):
        region = LpBall(x, torch.full_like(x, 0.3), p, bounds).check()
        assert float(region.minimum(a)) == pytest.approx(9 * 0.2 + 2 * 0.3 - 7 * 0.4, rel=1e-14)


@settings(deadline=None)
@given(seed=SEEDS, eps=EPS, cut=st.booleans())
def test_balls_of_one_radius_are_nested(seed: int, eps: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x, a = images(g, 2, 6), coefficients(g, 2, 3, 6)
    slack = 1e-13 * (1 + a.abs().sum(2) * (1 + eps))
    ones, twos, infs = (
        LpBall.around(x, eps, p, PIXELS if cut else None).minimum(a) for p in (1, 2, math.inf)
    )
    assert bool((infs <= twos + slack).all())
    assert bool((twos <= ones + slack).all())
    for p in (1.0, 2.0):
        whole = LpBall.around(x, eps, p, None).minimum(a)
        part = LpBall.around(x, eps, p).minimum(a)
        assert bool((whole <= part + slack).all())


@pytest.mark.parametrize(("p", "cut"), KINDS)
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_single_precision_is_sound_to_rounding(p: float, cut: bool, size: float) -> None:
    g = torch.Generator().manual_seed(11)
    x = images(g, 4, 1, 20, 20).float()
    a = (torch.randn(4, 5, 1, 20, 20, generator=g) ** 3 * size).float()
    for eps in (0.01, 0.3, 2.0, 9.0):
        single = LpBall.around(x, eps, p, PIXELS if cut else None)
        exact = single.to(dtype=F64).minimum(a.double())
        found = single.minimum(a).double()
        size_of = (a.double().abs() * (x.double()[:, None] + 1e-3)).flatten(2).sum(2) + exact.abs()
        assert bool((found <= exact + 1e-6 * size_of).all())
        assert bool((found >= exact - 1e-6 * size_of).all())


@pytest.mark.parametrize(("p", "cut"), KINDS)
def test_the_memory_order_of_the_rows_makes_no_difference(p: float, cut: bool) -> None:
    g = torch.Generator().manual_seed(12)
    region = any_region(p, cut, g, 2, 3, 4, 5)
    a = torch.randn(2, 6, 3, 4, 5, generator=g, dtype=F64)
    last = a.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    gradients = []
    for rows in (a.clone().requires_grad_(), last.detach().requires_grad_()):
        gradients += torch.autograd.grad(region.minimum(rows).sum(), rows)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-13, atol=1e-13)
    flat = region.each(lambda t: t.flatten(1))
    torch.testing.assert_close(
        region.minimum(a), flat.minimum(a.flatten(2)), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(("p", "cut"), KINDS)
@pytest.mark.parametrize("shape", [(2, 5), (3, 4, 5), (2, 4, 6), (2, 4, 5, 1)])
def test_rows_of_another_shape_are_refused(p: float, cut: bool, shape: tuple[int, ...]) -> None:
    region = any_region(p, cut, torch.Generator().manual_seed(1), 2, 5)
    with pytest.raises(RegionError, match=r"need the shape \(2, R, 5\)") as caught:
        region.minimum(torch.zeros(shape, dtype=F64))
    assert "\n" not in str(caught.value)
