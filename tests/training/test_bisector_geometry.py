"""AdvIBP's weights, stationarity and carried gradient against their geometry."""

from __future__ import annotations

import math

import pytest
import torch
from combination_helpers import batch
from torch import Tensor

from taut.region import Box
from taut.training import Bisector
from taut.training.combination.carried import carried
from taut.training.combination.fosc import clipped_fosc, unclipped_fosc
from taut.training.combination.kappas import (
    Kappas,
    Overlap,
    bisecting,
    prefer_adversarial,
    prefer_robust,
)


def overlap(a: Tensor, b: Tensor) -> Overlap:
    return Overlap.of(a, b, a.norm(), b.norm())


def vectors(seed: int, angle: float) -> tuple[Tensor, Tensor]:
    """Two vectors of different lengths at an angle (degrees) to each other."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(9, 2, generator=generator, dtype=torch.float64))
    turn = math.radians(angle)
    return 3.0 * basis[:, 0], 0.5 * (math.cos(turn) * basis[:, 0] + math.sin(turn) * basis[:, 1])


def test_equal_gradients_are_the_update() -> None:
    a, _ = vectors(0, 10)
    kappas = bisecting(overlap(a, a))
    assert kappas == pytest.approx((0.5, 0.5, 0.0))


@pytest.mark.parametrize("angle", [5, 40, 85])
def test_agreeing_gradients_give_the_bisector_as_long_as_the_mean_projection(angle: float) -> None:
    a, b = vectors(1, angle)
    kappas = bisecting(overlap(a, b))
    update = kappas.adversarial * a + kappas.robust * b
    middle = a / a.norm() + b / b.norm()
    middle = middle / middle.norm()
    torch.testing.assert_close(update / update.norm(), middle)
    torch.testing.assert_close(update.norm(), (a @ middle + b @ middle) / 2)
    cosines = [update @ v / v.norm() / update.norm() for v in (a, b)]
    torch.testing.assert_close(cosines[0], cosines[1])


@pytest.mark.parametrize("angle", [91, 120, 175])
@pytest.mark.parametrize("exact", [False, True])
def test_opposed_gradients_are_made_orthogonal(angle: float, exact: bool) -> None:
    a, b = vectors(2, angle)
    first = prefer_adversarial(overlap(a, b), exact)
    assert first.adversarial == 1.0
    assert first.robust >= 0.0
    assert (first.adversarial * a + first.robust * b) @ b == pytest.approx(0.0, abs=1e-14)
    second = prefer_robust(overlap(a, b), exact)
    assert second.robust == 1.0
    assert (second.adversarial * a + second.robust * b) @ a == pytest.approx(0.0, abs=1e-14)


def test_exact_projection_divides_by_the_means_themselves() -> None:
    a, b = vectors(3, 130)
    blurred = Overlap.of(a, b, 2 * a.norm(), 3 * b.norm())  # mean norms exceed norms of means
    assert prefer_adversarial(blurred, True).robust == pytest.approx(float(-(a @ b) / (b @ b)))
    assert prefer_adversarial(blurred, False).robust == pytest.approx(float(-(a @ b) / (9 * b @ b)))
    assert prefer_robust(blurred, True).adversarial == pytest.approx(float(-(a @ b) / (a @ a)))
    assert prefer_robust(blurred, False).adversarial == pytest.approx(float(-(a @ b) / (4 * a @ a)))


@pytest.mark.parametrize("exact", [False, True])
def test_a_vanishing_gradient_has_no_weight_and_leaves_the_other(exact: bool) -> None:
    a, _ = vectors(4, 90)
    zero = torch.zeros_like(a)
    for prefer in (prefer_adversarial, prefer_robust):
        assert prefer(overlap(a, zero), exact) == Kappas(1.0, 0.0)
        assert prefer(overlap(zero, a), exact) == Kappas(0.0, 1.0)
        assert prefer(overlap(zero, zero), exact) == Kappas(0.0, 0.0)


def test_stationarity_is_zero_at_the_best_corner_and_positive_elsewhere() -> None:
    generator = torch.Generator().manual_seed(1)
    x, _ = batch()
    gradient = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    box = Box.around(x, 0.2)
    corner = torch.where(gradient > 0, box.upper, box.lower)
    torch.testing.assert_close(clipped_fosc(corner, box, gradient), torch.zeros(7).double())
    # x reaches the edge of the pixel range: there the published formula stays above zero
    assert unclipped_fosc(corner, x, 0.2, gradient).amax() > 0.01
    for _ in range(20):
        point = box.lower + torch.rand(x.shape, generator=generator) * (box.upper - box.lower)
        found = clipped_fosc(point, box, gradient)
        wanted = ((corner - point) * gradient).flatten(1).sum(1)
        torch.testing.assert_close(found, wanted)  # no point of the box promises more
        assert bool((found >= 0).all())
        assert bool((found <= unclipped_fosc(point, x, 0.2, gradient) + 1e-12).all())


def test_a_carried_loss_has_the_gradient_it_was_given() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    given = [torch.arange(6.0).view(2, 3), torch.arange(4.0)]
    total = carried(torch.tensor(2.5), [a, b], given)
    assert total.item() == 2.5
    (3.0 * total + (b**2).sum()).backward()
    assert a.grad is not None
    assert b.grad is not None
    torch.testing.assert_close(a.grad, 3.0 * given[0])
    torch.testing.assert_close(b.grad, 3.0 * given[1] + 2.0)


def test_threshold_falls_linearly_over_its_epochs() -> None:
    rule = Bisector(threshold=0.4, threshold_start=2.0, threshold_length=4.0)
    found = [rule.threshold_at(epochs) for epochs in (0.0, 2.0, 3.0, 5.0, 6.0, 9.0)]
    assert found == pytest.approx([0.4, 0.4, 0.3, 0.1, 0.0, 0.0])
    assert Bisector(threshold=0.4, threshold_start=2.0, threshold_length=0.0).threshold_at(3) == 0.0


def test_norms_that_have_forgotten_a_gradient_give_it_no_weight() -> None:
    """Without memory of norms a mean can be there still when its norm is zero."""
    assert bisecting(Overlap(1.0, 0.5, 1.0, 0.0, 1.0)) == Kappas(0.0, 1.0)
    assert bisecting(Overlap(1.0, 0.5, 1.0, 1.0, 0.0)) == Kappas(1.0, 0.0)
