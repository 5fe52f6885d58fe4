"""Lines against the published tables, limits and tangents, written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from activation_table import KINDS, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from taut.errors import ModelError
from taut.operators import LINES, Activation, Bounds, Interval, Lines, ReLU
from taut.operators.clip import clip
from taut.operators.convex import Exp, Log, Reciprocal, Softplus, Sqrt
from taut.operators.leaky import LeakyReLU
from taut.operators.ramp import Ramp
from taut.operators.sshaped import Sigmoid, Tanh
from tests.counts import cases

Line = tuple[float, float]


def bounds(low: float, high: float) -> Bounds:
    return Bounds(tensor(low).view(1, 1), tensor(high).view(1, 1))


def lines_of(found: Lines) -> tuple[Line, Line]:
    def value(tensor: Tensor | None) -> float:
        return 0.0 if tensor is None else float(tensor)

    return (
        (value(found.lower_slope), value(found.lower_intercept)),
        (value(found.upper_slope), value(found.upper_intercept)),
    )


def chord(f: Callable[[float], float], p: float, q: float) -> Line:
    slope = (f(q) - f(p)) / (q - p)
    return slope, f(p) - slope * p


def leaky_table(l: float, u: float, eta: float, kind: str) -> tuple[Line, Line]:  # noqa: E741
    """Leaky ReLU's states; ReLU's for eta = 0."""
    if u <= 0:
        return (eta, 0.0), (eta, 0.0)
    if l >= 0:
        return (1.0, 0.0), (1.0, 0.0)
    upper = (u - eta * l) / (u - l), (eta - 1) * l * u / (u - l)
    identity = kind == "one" or (kind == "adaptive" and abs(l) < u)
    return (1.0 if identity else eta, 0.0), upper


def ramp_table(l: float, u: float, eta: float, r: float, kind: str) -> tuple[Line, Line]:  # noqa: E741
    """The six states of ParamRamp."""
    b = (1 - eta) * r
    outer, tail, identity = (eta, 0.0), (eta, b), (1.0, 0.0)
    if u <= 0:
        return outer, outer
    if l >= r:
        return tail, tail
    if l >= 0 and u <= r:
        return identity, identity
    whole = chord(lambda z: eta * z + (1 - eta) * min(max(z, 0), r), l, u)
    below = kind == "one" or (kind == "adaptive" and abs(l) < u)
    above = kind == "one" or (kind == "adaptive" and u - r < r - l)
    if l < 0 and u <= r:
        return identity if below else outer, whole
    if l >= 0:
        return whole, identity if above else tail
    k1, b1 = (r - eta * l) / (r - l), (eta - 1) * l * r / (r - l)
    k2 = (eta * u + b) / u
    return (k2, 0.0) if below else outer, (k1, b1) if above else tail


def assert_lines(found: Lines, expected: tuple[tuple[float, float], tuple[float, float]]) -> None:
    for mine, given_line in zip(lines_of(found), expected, strict=True):
        for a, b in zip(mine, given_line, strict=True):
            assert math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)


ENDS = st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(
    lambda ends: abs(ends[0] - ends[1]) > 1e-3
)
FAMILY = {"tight": "tight", "zero": "tight", "adaptive": "adaptive", "one": "one"}


@pytest.mark.parametrize("kind", FAMILY)
@settings(max_examples=cases(150), deadline=None)
@given(ends=ENDS, eta=st.sampled_from([0.0, 0.01, 0.4, 0.9]))
def test_leaky_lines_are_those_of_the_table(
    kind: str, ends: tuple[float, float], eta: float
) -> None:
    l, u = sorted(ends)  # noqa: E741
    expected = leaky_table(l, u, eta, FAMILY[kind])
    assert_lines(LeakyReLU(eta).lines(bounds(l, u), kind), expected)
    assert_lines(LeakyReLU(tensor(eta)).lines(bounds(l, u), kind), expected)
    if eta == 0:
        assert_lines(ReLU().lines(bounds(l, u), kind), expected)


@pytest.mark.parametrize("kind", FAMILY)
@settings(max_examples=cases(300), deadline=None)
@given(
    ends=ENDS,
    eta=st.sampled_from([0.0, 0.01, 0.4, 0.9]),
    r=st.sampled_from([1e-4, 0.3, 1.0, 2.5]),
)
def test_ramp_lines_are_those_of_the_table(
    kind: str, ends: tuple[float, float], eta: float, r: float
) -> None:
    l, u = sorted(ends)  # noqa: E741
    ramp = Ramp(tensor(eta), tensor(0.0), tensor(r))
    assert_lines(ramp.lines(bounds(l, u), kind), ramp_table(l, u, eta, r, FAMILY[kind]))


def test_a_tie_takes_the_flat_line() -> None:
    """As much left of a knee as right of it."""
    ramp = Ramp(tensor(0.25), tensor(0.0), tensor(1.0))
    lower, _ = lines_of(ramp.lines(bounds(-2.0, 2.0), "adaptive"))
    assert lower == (0.25, 0.0)
    _, upper = lines_of(ramp.lines(bounds(-1.0, 3.0), "adaptive"))
    assert upper == (0.25, 0.75)
    for operator in (LeakyReLU(0.25), LeakyReLU(tensor(0.25))):
        lower, _ = lines_of(operator.lines(bounds(-2.0, 2.0), "adaptive"))
        assert lower == (0.25, 0.0)
    lower, _ = lines_of(ReLU().lines(bounds(-2.0, 2.0), "adaptive"))
    assert lower == (0.0, 0.0)


def random_bounds(seed: int, count: int = 400) -> Bounds:
    g = torch.Generator().manual_seed(seed)
    ends = 2 * torch.randn(2, count, generator=g, dtype=torch.float64)
    return Bounds(ends.amin(0), ends.amax(0))


def same_lines(a: Lines, b: Lines) -> None:
    zero = torch.zeros_like(a.lower_slope)
    for mine, other in (
        (a.lower_slope, b.lower_slope),
        (a.upper_slope, b.upper_slope),
        (a.lower_intercept, b.lower_intercept),
        (a.upper_intercept, b.upper_intercept),
    ):
        left, right = (zero if t is None else t for t in (mine, other))
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("r", [1e6, math.inf])
def test_a_ramp_of_great_length_is_a_leaky_relu(kind: str, r: float) -> None:
    z = random_bounds(1)
    long = Ramp(tensor(0.2), tensor(0.0), tensor(r))
    same_lines(long.lines(z, kind), LeakyReLU(0.2).lines(z, kind))
    flat = Ramp(tensor(0.0), tensor(0.0), tensor(r))
    same_lines(flat.lines(z, kind), ReLU().lines(z, kind))
    same_lines(clip(tensor(0.0), None).lines(z, kind), ReLU().lines(z, kind))
    assert torch.equal(long.bends(z), LeakyReLU(0.2).bends(z))


@pytest.mark.parametrize("kind", LINES)
def test_a_negated_leaky_relu_is_the_concave_one(kind: str) -> None:
    """With slope 1/s, -s f(-z / s) is the one of slope s: lines mirror, lower and upper swap."""
    z = random_bounds(2)
    concave = LeakyReLU(4.0).lines(z, kind)
    mirrored = LeakyReLU(0.25).lines(Bounds(-z.upper, -z.lower), kind)
    zero = torch.zeros_like(z.lower)
    low, up = (
        zero if t is None else t for t in (mirrored.lower_intercept, mirrored.upper_intercept)
    )
    same_lines(
        concave,
        Lines(4 * mirrored.upper_slope, -4 * up, 4 * mirrored.lower_slope, -4 * low),
    )


def test_a_ramp_is_made_of_two_relus() -> None:
    z = 3 * torch.randn(500, 4, dtype=torch.float64)
    r, eta = tensor(0.7), tensor(0.3)
    expected = eta * z + (1 - eta) * (torch.relu(z) - torch.relu(z - r))
    torch.testing.assert_close(Ramp(eta, tensor(0.0), r).forward(z), expected)


@pytest.mark.parametrize("operator", [Sigmoid(), Tanh()], ids=lambda o: o.name)
def test_lines_of_s_shapes(operator: Activation) -> None:
    """Tight and adaptive slopes, the touching points by another solver."""

    def f(z: float) -> float:
        return math.tanh(z) if operator.name == "tanh" else 1 / (1 + math.exp(-z))

    def slope(z: float) -> float:
        return 1 - math.tanh(z) ** 2 if operator.name == "tanh" else f(z) * (1 - f(z))

    def touch(anchor: float, end: float) -> float:
        """Return the slope from the anchor to where the line touches, at most at the end."""

        def gap(d: float) -> float:
            return f(d) - f(anchor) - slope(d) * (d - anchor)

        sides = sorted((1e-12 * math.copysign(1, end), end))
        inside = gap(sides[0]) * gap(sides[1]) < 0
        at = brentq(gap, *sides, xtol=1e-14) if inside else end
        return (f(at) - f(anchor)) / (at - anchor)

    for seed in range(3):
        z = random_bounds(seed, 60)
        tight, adaptive = operator.lines(z, "tight"), operator.lines(z, "adaptive")
        for i, (l, u) in enumerate(zip(z.lower.tolist(), z.upper.tolist(), strict=True)):  # noqa: E741
            k = (f(u) - f(l)) / (u - l)
            low, up = min(slope(l), k), min(slope(u), k)
            assert float(tight.lower_slope[i]) == pytest.approx(low, rel=1e-8)
            assert float(tight.upper_slope[i]) == pytest.approx(up, rel=1e-8)
            assert float(tight.lower_intercept[i]) == pytest.approx(f(l) - low * l, abs=1e-12)  # type: ignore[index]
            assert float(tight.upper_intercept[i]) == pytest.approx(f(u) - up * u, abs=1e-12)  # type: ignore[index]
            mid = slope((l + u) / 2)
            low = mid if u <= 0 else k if l >= 0 else touch(u, l)
            up = mid if l >= 0 else k if u <= 0 else touch(l, u)
            assert float(adaptive.lower_slope[i]) == pytest.approx(low, rel=1e-8)
            assert float(adaptive.upper_slope[i]) == pytest.approx(up, rel=1e-8)


def test_lines_of_convex_functions_are_tangents_and_chords() -> None:
    z = Bounds(tensor(0.5).view(1), tensor(2.0).view(1))
    e = (math.exp(2) - math.exp(0.5)) / 1.5
    at = math.exp(1.25)
    lower, upper = lines_of(Exp().lines(z, "adaptive"))
    assert lower == pytest.approx((at, at - 1.25 * at))
    assert upper == pytest.approx((e, math.exp(0.5) - e / 2))
    lower, _ = lines_of(Exp().lines(z, "tight"))
    assert lower == pytest.approx((math.exp(0.5), math.exp(0.5) / 2))
    lower, upper = lines_of(Log().lines(z, "tight"))
    assert upper == pytest.approx((0.5, math.log(2) - 1))
    assert lower == pytest.approx((math.log(4) / 1.5, math.log(0.5) - math.log(4) / 3))
    _, upper = lines_of(Sqrt().lines(z, "adaptive"))
    assert upper == pytest.approx((0.5 / math.sqrt(1.25), math.sqrt(1.25) / 2))
    lower, upper = lines_of(Reciprocal().lines(z, "tight"))
    assert lower == pytest.approx((-0.25, 1.0))
    assert upper == pytest.approx((-1.0, 2.5))


@pytest.mark.parametrize(
    ("operator", "low", "word"),
    [
        (Log(), 0.0, "log"),
        (Log(), -0.3, r"log can reach -0\.3, .* z > 0"),
        (Sqrt(), -1.0, "sqrt can reach -1, .* z >= 0"),
        (Reciprocal(), 0.0, "reciprocal"),
        (Log(), math.nan, "nan"),
    ],
)
def test_leaving_the_domain_is_an_error(operator: Activation, low: float, word: str) -> None:
    z = Bounds(torch.tensor([1.0, low]), torch.tensor([2.0, 3.0]))
    for ask in (
        lambda: operator.interval(Interval.between(z.lower, z.upper)),
        *(lambda kind=kind: operator.lines(z, kind) for kind in LINES),
    ):
        with pytest.raises(ModelError, match=word):
            ask()


def test_a_root_is_bounded_down_to_zero() -> None:
    z = Bounds(torch.tensor([0.0, 0.0]), torch.tensor([4.0, 0.0]))
    for kind in LINES:
        lines = Sqrt().lines(z, kind)
        for at in (z.lower, z.upper):
            low = lines.lower_slope * at + lines.lower_intercept  # type: ignore[operator]
            up = lines.upper_slope * at + lines.upper_intercept  # type: ignore[operator]
            assert bool((low <= at.sqrt()).all())
            assert bool((up >= at.sqrt()).all())


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_is_infinite_and_never_nan(kind: str) -> None:
    z = Bounds(
        torch.tensor([-1.0, 90.0, 200.0, -500.0]), torch.tensor([1000.0, 95.0, 300.0, 500.0])
    )
    lines = Exp().lines(z, kind)
    for found in (lines.lower_slope, lines.upper_slope, lines.lower_intercept):
        assert found is not None
        assert not bool(found.isnan().any())
    assert torch.equal(lines.upper_intercept, torch.full((4,), math.inf))
    assert bool(torch.isfinite(lines.upper_slope).all())
    low = lines.lower_slope.double() * z.lower + lines.lower_intercept  # type: ignore[operator]
    assert bool((low <= z.lower.double().exp() * (1 + 1e-6)).all())


def test_bounds_of_softplus_hold_its_step() -> None:
    """Beyond the threshold PyTorch goes on with z, which lies lower."""
    softplus = Softplus(1.0, 2.0)
    z = Bounds(tensor(1.9).view(1), tensor(2.05).view(1))
    image = softplus.image(z)
    assert float(image.lower) == pytest.approx(2.0)
    assert float(image.upper) == pytest.approx(2 + math.log1p(math.exp(-2)))
    assert float(softplus.forward(tensor(2.0001))) == 2.0001
    for kind in LINES:
        lower, upper = lines_of(softplus.lines(z, kind))
        assert lower[0] * 2 + lower[1] <= 2.0
        assert upper[0] * 2 + upper[1] >= 2 + math.log1p(math.exp(-2)) - 1e-12
