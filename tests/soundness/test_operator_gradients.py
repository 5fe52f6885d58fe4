"""Rows and lines of the operators pass gradients on: training differentiates bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taut.operators import LINES, Affine, Bounds, Maximum, Product, Square
from tests.soundness.harness import case, every_case, generator, normal, uniform

AFFINE = [c for c in every_case() if isinstance(case(*c, 0).operator, Affine)]


@pytest.mark.parametrize(("name", "number"), AFFINE)
def test_the_gradient_of_pulled_rows_is_the_map_itself(name: str, number: int) -> None:
    """Pulling back is linear in the rows, so its derivative maps points without the bias."""
    found, g = case(name, number, 7), generator(7)
    operator = found.operator
    assert isinstance(operator, Affine)
    points = [normal(g, 2, *shape) for shape in found.shapes]
    through = operator.linear(*points)
    rows = normal(g, *through.shape).requires_grad_()
    pulled = operator.transpose(rows, found.shapes)
    value = torch.stack([(a * x).sum() for a, x in zip(pulled, points, strict=True)]).sum()
    if not value.requires_grad:  # a constant: nothing is passed on
        assert not through.any()
        return
    (slope,) = torch.autograd.grad(value, rows)
    torch.testing.assert_close(slope, through, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "number"), AFFINE)
def test_rows_in_another_memory_format_are_pulled_alike(name: str, number: int) -> None:
    """Rows may lie channels-last, or be copies along an axis that take no memory."""
    found, g = case(name, number, 8), generator(8)
    operator = found.operator
    assert isinstance(operator, Affine)
    out = operator.forward(*(normal(g, 2, *shape) for shape in found.shapes))
    forms = [normal(g, 1, *out.shape[1:]).expand_as(out)]
    if out.dim() == 4:
        forms.append(normal(g, *out.shape).contiguous(memory_format=torch.channels_last))
    for rows in forms:
        with torch.inference_mode():
            pulled = operator.transpose(rows, found.shapes)
        plain = operator.transpose(rows.contiguous().clone(), found.shapes)
        for a, b in zip(pulled, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("operator", [Maximum(1), Product(0), Square()], ids=lambda o: o.name)
def test_lines_have_the_derivative_of_finite_differences(
    operator: Maximum | Product | Square, kind: str
) -> None:
    g = generator(9)
    shape = (2, 3) if isinstance(operator, Product) else (2, 4)
    center, radius = normal(g, 3, *shape), 0.2 + uniform(g, 3, *shape)

    def fields(lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        lines = operator.lines(Bounds(lower, upper), kind)
        every = (
            lines.lower_slope,
            lines.lower_intercept,
            lines.upper_slope,
            lines.upper_intercept,
        )
        # Slopes that are constants have no derivative; added zeros say so to gradcheck.
        return tuple(part + 0 * lower.sum() for part in every if part is not None)

    ends = (center - radius).requires_grad_(), (center + radius).requires_grad_()
    assert torch.autograd.gradcheck(fields, ends)


@pytest.mark.parametrize(("name", "number"), AFFINE)
def test_the_gradient_at_the_input_is_the_pulled_row(name: str, number: int) -> None:
    """With constant weights as with trainable ones, which may go different ways."""
    found, g = case(name, number, 9), generator(9)
    operator = found.operator
    assert isinstance(operator, Affine)
    points = [normal(g, 2, *shape).requires_grad_() for shape in found.shapes]
    through = operator.forward(*points)
    rows = normal(g, *through.shape)
    pulled = operator.transpose(rows, found.shapes)
    slopes = (
        torch.autograd.grad(
            (through * rows).sum(), points, allow_unused=True, materialize_grads=True
        )
        if through.requires_grad
        else [torch.zeros_like(point) for point in points]
    )
    for slope, row in zip(slopes, pulled, strict=True):
        torch.testing.assert_close(slope, row, rtol=1e-10, atol=1e-10)
