"""Erased and enlarged rectangles, and shifts filled with grey, against one image at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from taut.data import Augment, find_augmentation
from taut.data.rectangles import Enlarge, Erase, Rectangles, draw_rectangles
from taut.errors import ConfigError, DataError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.uint8):
    values = torch.randint(0, 256, shape, generator=generator(9), dtype=torch.uint8)
    return values if dtype == torch.uint8 else values.to(dtype) / 255


@pytest.mark.parametrize(
    ("area", "ratio"), [((0.04, 0.2), (0.5, 2.0)), ((0.3, 1.0), (0.75, 4 / 3))]
)
def test_areas_and_ratios_are_those_asked_for(area, ratio):
    images = torch.empty(20_000, 1, 200, 200)
    found = draw_rectangles(images, area, ratio, generator())
    height, width = found.height.double(), found.width.double()
    shares, shapes = height * width / 40_000, (height / width).log()
    assert shares.min() >= area[0] - 0.01
    assert shares.max() <= area[1] + 0.01
    assert shapes.min() >= math.log(ratio[0]) - 0.03
    assert shapes.max() <= math.log(ratio[1]) + 0.03
    if area[1] < 0.5:  # none has to be drawn again, so both are uniform
        assert shares.mean() == pytest.approx(sum(area) / 2, abs=1e-3)
        assert shares.std() == pytest.approx((area[1] - area[0]) / math.sqrt(12), rel=0.02)
        assert shapes.mean() == pytest.approx(0, abs=0.01)
        assert shapes.std() == pytest.approx(2 * math.log(ratio[1]) / math.sqrt(12), rel=0.02)
    assert (found.top >= 0).all()
    assert (found.left >= 0).all()
    assert (found.top + found.height <= 200).all()
    assert (found.left + found.width <= 200).all()
    # the places of a rectangle are equally likely
    for first, side in ((found.top, found.height), (found.left, found.width)):
        free = (200 - side).clamp(min=1).double()
        assert (first / free).mean() == pytest.approx(0.5, abs=0.01)
        assert (first == 0).any()
        assert ((first + side == 200) & (side < 200)).any()


def test_the_whole_image_is_taken_where_no_rectangle_fits():
    found = draw_rectangles(torch.empty(50, 1, 4, 40), (1.0, 1.0), (1.0, 1.0), generator())
    assert torch.equal(found.height, torch.full((50,), 4))
    assert torch.equal(found.width, torch.full((50,), 40))
    assert not found.top.any()
    assert not found.left.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erasing_paints_the_rectangles_of_the_chosen_images_and_nothing_else(dtype):
    images = noise(30, 3, 9, 12, dtype=dtype)
    place = draw_rectangles(images, (0.04, 0.2), (0.5, 2.0), generator(1))
    chosen = torch.arange(30) % 3 > 0
    found = Erase().apply(images, place, chosen)
    expected = images.clone()
    for i in range(30):
        if chosen[i]:
            top, left, height, width = (int(side[i]) for side in place)
            grey = 128 if dtype == torch.uint8 else 0.5
            expected[i, :, top : top + height, left : left + width] = grey
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert not torch.equal(found, images)


def test_half_of_the_images_lose_a_rectangle():
    images = torch.zeros(4000, 1, 16, 16)
    hole = (Erase()(images, generator(2)) == 0.5).flatten(1)
    assert hole.any(1).double().mean() == pytest.approx(0.5, abs=0.04)
    assert hole[hole.any(1)].double().mean() == pytest.approx(0.12, abs=0.01)
    assert not (Erase(probability=0.0)(images, generator(2)) != 0).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_enlarging_is_bilinear_interpolation_of_the_rectangle_alone(dtype):
    images = noise(12, 3, 16, 20, dtype=dtype)
    place = draw_rectangles(images, (0.05, 1.0), (0.75, 4 / 3), generator(3))
    place = Rectangles(*(side.clone() for side in place))
    place.height[0], place.width[0], place.top[0], place.left[0] = 1, 1, 5, 7
    found = Enlarge().apply(images, place)
    for i in range(12):
        top, left, height, width = (int(side[i]) for side in place)
        cut = images[i : i + 1, :, top : top + height, left : left + width].double()
        expected = F.interpolate(cut, (16, 20), mode="bilinear", align_corners=False)[0]
        off = (found[i].double() - expected).abs().max()
        assert off <= (0.51 if dtype == torch.uint8 else 1e-5)
    assert found.dtype == dtype
    assert found.shape == images.shape
    whole = Rectangles(*(torch.full((12,), v) for v in (0, 0, 16, 20)))
    assert (Enlarge().apply(images, whole).double() - images.double()).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifts_are_filled_with_grey(dtype):
    augment = Augment(flip=True, pad=4, mode="grey")
    images = noise(40, 3, 8, 8, dtype=dtype)
    offsets = augment.draw(images, generator())
    found = augment.apply(images, offsets)
    for i in range(40):
        top, left, flip = (int(drawn[i]) for drawn in offsets)
        value = 128.0 if dtype == torch.uint8 else 0.5
        padded = F.pad(images[i : i + 1].double(), [4] * 4, value=value)[0].to(dtype)
        crop = padded[:, top : top + 8, left : left + 8]
        assert torch.equal(found[i], crop.flip(2) if flip else crop)


def test_the_byte_of_grey_lies_in_the_cell_of_a_half():
    from taut.models import Cells

    pixels = torch.tensor([[0.5, 128 / 255]])
    for n in range(1, 255):
        cells = Cells(n).steps().cell(pixels)
        assert cells[0, 0] == cells[0, 1] == n // 2


def test_the_published_augmentation_erases_before_it_shifts():
    augment = find_augmentation("flip-erase-crop4-grey")
    assert (augment.flip, augment.pad, augment.mode) == (True, 4, "grey")
    assert augment.erase == Erase(0.5, (0.04, 0.2), (0.5, 2.0))
    assert find_augmentation("flip-enlarge").enlarge == Enlarge((0.3, 1.0), (0.75, 4 / 3))
    images = noise(64, 3, 32, 32)
    draws = generator(7)
    erased = augment.erase(images, draws)
    expected = Augment(flip=True, pad=4, mode="grey")(erased, draws)
    assert torch.equal(augment(images, generator(7)), expected)


@pytest.mark.parametrize("cls", [Erase, Enlarge])
@pytest.mark.parametrize(
    "values", [{"area": (0.0, 0.5)}, {"area": (0.5, 0.4)}, {"area": (0.5, 1.5)}, {"ratio": (0, 1)}]
)
def test_shares_and_ratios_out_of_range_are_refused(cls, values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        cls(**values)


def test_a_probability_is_one_and_a_batch_has_four_axes():
    with pytest.raises(ConfigError, match="probability"):
        Erase(probability=1.5)
    with pytest.raises(DataError, match=r"\(B, C, H, W\)"):
        Augment(erase=Erase())(noise(3, 4, 4), generator())
