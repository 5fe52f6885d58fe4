"""Properties behind a network: rows and groups at points, and bounds of them by every method."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from taut.bounds import METHODS
from taut.errors import PropertyError
from taut.graph import trace
from taut.graph.specified import grouped, specified
from taut.property.case import Case
from taut.property.exact import Constraint, Exact
from taut.property.specification import Specification
from taut.region import Box


def network(outputs: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, outputs)
    ).double()
    for parameter in net.parameters():
        parameter.data.mul_(2)
    return net


def drawn(outputs: int = 4, seed: int = 0) -> Specification:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    rows = torch.randn(6, outputs, generator=generator, dtype=torch.float64)
    return Specification(rows, torch.randn(6, generator=generator, dtype=torch.float64), groups)


def points(box: Box, count: int) -> Tensor:
    """Corners, and points in between."""
    share = torch.rand(count, *box.lower.shape[1:], dtype=box.dtype)
    share[: count // 2] = share[: count // 2].round()
    return box.lower[:1] + share * (box.upper - box.lower)[:1]


def box_of(seed: int, radius: float = 0.2) -> Box:
    torch.manual_seed(seed)
    center = torch.randn(1, 5, dtype=torch.float64)
    return Box(center - radius, center + radius)


def test_a_point_is_unsafe_where_all_rows_of_a_group_are_at_most_zero() -> None:
    specification = drawn()
    z = torch.randn(400, 4, dtype=torch.float64)
    by_hand = []
    for point in z.tolist():
        rows = [
            sum(a * v for a, v in zip(row, point, strict=True)) <= b
            for row, b in zip(
                specification.rows.tolist(), specification.offsets.tolist(), strict=True
            )
        ]
        by_hand.append((rows[0] and rows[1]) or rows[2] or (rows[3] and rows[4] and rows[5]))
    assert specification.violated(z).tolist() == by_hand
    assert specification.holds(z).tolist() == [not unsafe for unsafe in by_hand]
    assert 20 < sum(by_hand) < 380


def test_the_border_is_unsafe_and_nan_is_neither_safe_nor_unsafe() -> None:
    margins = Specification.margins(1, 3)
    z = torch.tensor([[1.0, 1.0, 0.0], [0.9, 1.0, 0.0], [torch.nan, 1.0, 0.0]]).double()
    assert margins.violated(z).tolist() == [True, False, False]
    assert margins.holds(z).tolist() == [False, True, False]


def test_constructors_say_what_they_are_named_after() -> None:
    z = torch.randn(300, 3, dtype=torch.float64)
    others = z[:, [0, 2]].amax(1)
    assert torch.equal(Specification.margins(1, 3).holds(z), z[:, 1] > others)
    assert torch.equal(Specification.targeted(1, 2, 3).holds(z), z[:, 1] > z[:, 2])
    low, high = torch.tensor([-1.0, -0.5, -2.0]), torch.tensor([0.5, 1.0, 2.0])
    inside = ((z > low) & (z < high)).all(1)
    assert torch.equal(Specification.within(low, high).holds(z), inside)
    for wrong in (lambda: Specification.margins(3, 3), lambda: Specification.targeted(1, 1, 3)):
        with pytest.raises(PropertyError):
            wrong()


@pytest.mark.parametrize("what", ["rows", "offsets", "groups", "order", "nan", "type"])
def test_specifications_that_are_none_are_refused(what: str) -> None:
    rows, offsets = torch.ones(2, 3).double(), torch.zeros(2).double()
    groups = torch.tensor([0, 1])
    if what == "rows":
        rows = rows[0]
    elif what == "offsets":
        offsets = offsets[:1]
    elif what == "groups":
        groups = torch.tensor([0, 2])
    elif what == "order":
        groups = torch.tensor([1, 0])
    elif what == "nan":
        rows[0, 0] = torch.nan
    else:
        rows = rows.float()
    with pytest.raises(PropertyError):
        Specification(rows, offsets, groups)


@pytest.mark.parametrize("outputs", [1, 4])
def test_rows_and_groups_at_points(outputs: int) -> None:
    net, specification = network(outputs), drawn(outputs)
    traced = trace(net, (5,)).instance()
    x = torch.randn(50, 5, dtype=torch.float64)
    values = net(x) @ specification.rows.T - specification.offsets
    largest = torch.stack([values[:, :2].amax(1), values[:, 2], values[:, 3:].amax(1)], 1)
    assert torch.allclose(specified(traced, specification)(x)[:, 1:], -values)
    assert torch.allclose(grouped(traced, specification)(x)[:, 1:], -largest)
    assert not specified(traced, specification)(x)[:, 0].any()
    assert not grouped(traced, specification)(x)[:, 0].any()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("behind", [specified, grouped])
def test_every_method_bounds_rows_and_groups(name: str, behind: type) -> None:
    for seed in range(4):
        net, specification, box = network(seed=seed), drawn(seed=seed), box_of(seed)
        traced = trace(net, (5,)).instance()
        y = torch.zeros(1, dtype=torch.int64)
        with torch.no_grad():
            found = METHODS[name].margins(behind(traced, specification), box, y)[0, 1:]
            values = specification.values(net(points(box, 500)))
        if behind is grouped:
            values = specification.by_group(values)
        least = values.amin(0)
        assert (found <= least + 1e-9).all()
        assert (found > least - 1000).all()


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "crown", "deepz"])
def test_the_layer_is_merged_so_that_margins_are_those_of_the_network(name: str) -> None:
    traced, box = trace(network(), (5,)).instance(), box_of(1)
    with torch.no_grad():
        plain = METHODS[name].margins(traced, box, torch.tensor([2]))[0]
        behind = specified(traced, Specification.margins(2, 4))
        rows = METHODS[name].margins(behind, box, torch.tensor([0]))[0, 1:]
    assert torch.allclose(rows, plain[[0, 1, 3]], rtol=1e-12, atol=1e-12)


def test_right_hand_sides_are_rounded_up_in_float32() -> None:
    traced = trace(network().float(), (5,)).instance()
    offsets = torch.tensor([0.1, -0.1, 1 / 3, 2.0**-30 + 1], dtype=torch.float64)
    specification = Specification(torch.ones(4, 4).double(), offsets, torch.arange(4))
    operator = specified(traced, specification).output.operator
    bias = operator.bias[1:]
    assert bias.dtype == torch.float32
    assert (bias.double() >= offsets).all()
    assert (bias.double() - offsets <= 2.0**-23).all()


def test_a_property_of_another_network_is_refused() -> None:
    traced = trace(network(3), (5,)).instance()
    for behind in (specified, grouped):
        with pytest.raises(PropertyError, match="about 4 outputs"):
            behind(traced, drawn(4))


def test_coefficients_are_scaled_to_exact_ones_or_refused() -> None:
    tenths = Constraint(((0, Fraction("0.1")), (2, Fraction("-0.7"))), Fraction("0.3"))
    case = Case.of(Exact((Fraction(0),), (Fraction(1),), ((tenths,),)), 3)
    (row,), (offset,) = case.specification.rows.tolist(), case.specification.offsets.tolist()
    assert Fraction(row[0]) * -7 == Fraction(row[2])
    assert row[1] == 0
    assert row[0] > 0
    exact = Fraction(row[0]) * 3
    assert exact <= Fraction(offset) <= exact + Fraction(1, 10**15)
    long = Constraint(((0, Fraction(1, 3)), (1, Fraction("0.12345678901234567"))), Fraction(0))
    with pytest.raises(PropertyError, match="53 bits"):
        long.representable()


def test_exact_boxes_and_what_is_unsafe_over_them() -> None:
    row = Constraint(((0, Fraction(1)),), Fraction("0.1"))
    exact = Exact((Fraction("0.1"),), (Fraction("0.1"),), ((row,),))
    assert exact.inside([Fraction("0.1")])
    assert not exact.inside([Fraction(0.1)])
    assert exact.nearest([0.1]) == (Fraction("0.1"),) == exact.nearest([7.0])
    assert not exact.unsafe([0.1])  # 0.1 in float64 is more than a tenth
    assert exact.unsafe([0.0999])
    assert not exact.unsafe([float("nan")])
    assert not exact.unsafe([float("-inf")])
    for low, high in (("1", "0"), ("-1e400", "0")):
        with pytest.raises(PropertyError):
            Case.of(Exact((Fraction(low),), (Fraction(high),), ((row,),)), 1)
    with pytest.raises(PropertyError, match="no constraint"):
        Case.of(Exact((Fraction(0),), (Fraction(1),), ((row,), ())), 1)
