"""The robust cross-entropy: its formula, and no NaN from the +inf of the true class."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taut.training import robust_cross_entropy


def padded(rows: Tensor, y: Tensor) -> Tensor:
    """Put +inf into the true column, as bounding methods do."""
    return rows.masked_fill(torch.nn.functional.one_hot(y, rows.shape[1]).bool(), torch.inf)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 300))
def test_it_is_log_one_plus_sum_of_exponentials(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (5,), generator=generator)
    found = robust_cross_entropy(padded(rows, y), y)
    for i in range(5):
        others = torch.cat([rows[i, : y[i]], rows[i, y[i] + 1 :]])
        expected = torch.logsumexp(torch.cat([torch.zeros(1), -others]), 0)
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


def test_value_and_gradient_are_finite_with_infinite_true_column() -> None:
    y = torch.tensor([0, 2])
    rows = torch.tensor([[0.0, -1e4, 1e4], [3.0, -2.0, 0.0]], requires_grad=True)
    loss = robust_cross_entropy(padded(rows, y), y).sum()
    (gradient,) = torch.autograd.grad(loss, rows)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    assert gradient[0, 0] == 0
    assert gradient[1, 2] == 0


def test_gradient_is_the_derivative() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda r: robust_cross_entropy(padded(r, y), y), (rows,))


def test_a_margin_that_is_not_a_number_is_not_hidden() -> None:
    margins = torch.tensor([[torch.inf, torch.nan, 1.0]])
    assert bool(robust_cross_entropy(margins, torch.tensor([0])).isnan())
