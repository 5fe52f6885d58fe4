"""Images with a margin: random crops read it, nothing else does."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from taut.data import Augment, ImageSet, batches
from taut.errors import ConfigError, DataError
from taut.training import METHODS, Settings, fit


def margined(count=6, dtype=torch.uint8):
    wide = torch.randint(0, 256, (count, 3, 10, 9), generator=torch.Generator().manual_seed(1))
    wide = wide.to(torch.uint8) if dtype == torch.uint8 else wide.float() / 255
    inner = wide[:, :, 2:-2, 2:-2]
    return ImageSet(inner, torch.arange(count) % 2, "m", "all", ("a", "b"), wide)


def test_choosing_and_moving_images_keeps_the_margin():
    whole = margined()
    assert whole.shape == (3, 6, 5)
    for index in (slice(1, 4), torch.tensor([5, 0]), torch.arange(6) > 3):
        part = whole[index]
        assert torch.equal(part.wide, whole.wide[index])
        assert torch.equal(part.images, whole.images[index])
        assert torch.equal(part.labels, whole.labels[index])
    assert torch.equal(whole.first(2).wide, whole.wide[:2])
    assert torch.equal(whole.to("cpu").images, whole.images)
    assert torch.equal(whole.pixels(), whole.wide[:, :, 2:-2, 2:-2].float() / 255)


@pytest.mark.parametrize("shape", [(6, 3, 10, 10), (6, 3, 9, 8), (5, 3, 10, 9), (6, 1, 10, 9)])
def test_a_margin_that_does_not_fit_is_refused(shape):
    whole = margined()
    with pytest.raises(DataError, match="not the centre"):
        replace(whole, wide=torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(DataError, match="not the centre"):
        replace(whole, wide=whole.wide.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_random_crops_come_from_the_margin_and_nothing_else_does(dtype):
    square = margined(dtype=dtype)
    wide = square.wide[:, :, :9, :]
    whole = replace(square, images=wide[:, :, 2:-2, 2:-2], wide=wide)
    generator = torch.Generator().manual_seed(0)
    crops = set()
    for _ in range(80):
        for x, _, index in batches(whole, 4, shuffle=generator, augment=Augment(crop=5)):
            for image, i in zip(x, index.tolist(), strict=True):
                source = replace(whole, images=wide, wide=None).pixels(i)
                windows = source.unfold(1, 5, 1).unfold(2, 5, 1).permute(1, 2, 0, 3, 4)
                (place,) = (windows == image).all((2, 3, 4)).nonzero().tolist()
                crops.add(tuple(place))
    assert crops == {(top, left) for top in range(5) for left in range(5)}
    for augment in (None, Augment(flip=True), Augment(flip=True, pad=1, mode="edge")):
        for i in range(6):
            one = whole[i : i + 1]
            inside = set(one.pixels().unique().tolist())
            ((x, _, _),) = batches(one, 1, shuffle=generator, augment=augment)
            assert set(x.unique().tolist()) <= inside


def test_an_augmentation_must_keep_the_size_that_networks_see():
    whole, generator = margined(), torch.Generator()
    with pytest.raises(ConfigError, match="makes 4 x 4 pixels of m, whose images have 6 x 5"):
        batches(whole, 2, shuffle=generator, augment=Augment(crop=4))
    with pytest.raises(DataError, match="crop 56 pixels out of 9"):
        batches(whole, 2, shuffle=generator, augment=Augment(crop=56))


def test_training_crops_at_random_and_all_else_sees_the_centre():
    generator = torch.Generator().manual_seed(2)
    wide = torch.randint(0, 256, (24, 3, 10, 10), generator=generator).to(torch.uint8)
    inner = wide[:, :, 2:-2, 2:-2]
    train = ImageSet(inner, torch.arange(24) % 2, "m", "all", ("a", "b"), wide)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 2))
    settings = Settings(
        epochs=2, eps=0.01, batch_size=8, batch_norm="population", device="cpu", threads=1
    )
    crop = Augment(flip=True, crop=6)
    result = fit(model, train, train.first(10), METHODS["ibp"].method, settings, augment=crop)
    seen = train.pixels()
    assert torch.allclose(model[0].running_mean, seen.mean((0, 2, 3)), rtol=0, atol=1e-6)
    right = (model(seen[:10]).argmax(1) == train.labels[:10]).double().mean()
    assert result.rows[-1]["validation"]["natural_accuracy"] == pytest.approx(float(right))
    with pytest.raises(ConfigError, match="makes 5 x 5 pixels"):
        fit(model, train, None, METHODS["ibp"].method, settings, augment=Augment(crop=5))
