"""Regions: clipped where they should be, refused where they make no sense."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.errors import DataError, RegionError
from taut.property import check_labels, margin_rows, pad_true_class, true_margins
from taut.region import Box


@settings(deadline=None)
@given(eps=st.floats(0, 2), seed=st.integers(0, 1000))
def test_ball_is_the_clipped_one(eps: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 4, generator=g, dtype=torch.float64)
    x[0, :2] = torch.tensor([0.0, 1.0])
    box = Box.around(x, eps)
    assert bool(box.contains(x).all())
    assert bool(((box.lower >= 0) & (box.upper <= 1)).all())
    assert bool(((box.upper - x <= eps + 1e-15) & (x - box.lower <= eps + 1e-15)).all())
    outside = x + (2 * torch.rand(3, 4, generator=g, dtype=torch.float64) - 1) * 3
    near = box.project(outside)
    assert bool(box.contains(near).all())
    free = (x - eps > 0) & (x + eps < 1)  # pixels that nothing clips keep the whole interval
    torch.testing.assert_close(box.radius[free], torch.full_like(x, eps)[free])


def test_radii_per_image_and_per_pixel() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    each = Box.around(x, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(each.radius[0], torch.full((1, 2, 2), 0.1))
    torch.testing.assert_close(each.radius[1], torch.full((1, 2, 2), 0.2))
    pixel = torch.rand(1, 2, 2) * 0.3
    torch.testing.assert_close(Box.around(x, pixel).radius, pixel.expand(2, 1, 2, 2))


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, torch.tensor([0.1, -1.0])])
def test_a_radius_that_is_none_is_refused(eps: float) -> None:
    with pytest.raises(RegionError, match="eps"):
        Box.around(torch.rand(2, 3), eps)


@pytest.mark.parametrize("value", [1.5, -0.01, math.nan])
def test_images_outside_the_pixel_range_are_refused(value: float) -> None:
    x = torch.rand(2, 3)
    x[1, 1] = value
    with pytest.raises(RegionError, match="pixel range"):
        Box.around(x, 0.1)


def test_malformed_boxes_are_refused() -> None:
    with pytest.raises(RegionError, match="shape"):
        Box(torch.zeros(2, 3), torch.ones(2, 4))
    with pytest.raises(RegionError, match="type"):
        Box(torch.zeros(2, 3), torch.ones(2, 3).double())
    with pytest.raises(RegionError, match="above"):
        Box(torch.ones(2, 3), torch.zeros(2, 3)).check()
    with pytest.raises(RegionError, match="above its upper end, or holds NaN"):
        Box(torch.zeros(2, 3), torch.full((2, 3), math.nan)).check()


@settings(deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 7))
def test_margin_rows_and_padding_agree_with_the_logits(seed: int, classes: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, classes, generator=g, dtype=torch.float64)
    y = torch.randint(classes, (5,), generator=g)
    rows = margin_rows(y, classes, logits)
    assert rows.shape == (5, classes - 1, classes)
    padded = pad_true_class((rows @ logits[:, :, None]).squeeze(2), y)
    torch.testing.assert_close(padded, true_margins(logits, y))


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range_name_the_image(label: int) -> None:
    y = torch.tensor([3, label, 2])
    with pytest.raises(DataError, match=rf"label {label} of image 1"):
        check_labels(y, 10, 3)


def test_labels_must_be_whole_numbers_one_an_image() -> None:
    with pytest.raises(DataError, match="one whole number per image"):
        check_labels(torch.zeros(3), 10, 3)
    with pytest.raises(DataError, match="one whole number per image"):
        check_labels(torch.zeros(2, dtype=torch.long), 10, 3)
