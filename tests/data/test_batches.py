import pytest
import torch

from taut.data import Augment, ImageSet, batches, steps
from taut.errors import ConfigError, DataError


def make(count=11, dtype=torch.uint8):
    pixels = torch.arange(count * 16, dtype=torch.uint8).view(count, 1, 4, 4)
    pixels = pixels if dtype == torch.uint8 else pixels / 255
    return ImageSet.from_tensors(pixels, torch.arange(count) % 3, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [1, 4, 11, 20])
def test_a_pass_visits_every_image_once(size, drop_last, dtype):
    images = make(dtype=dtype)
    count = steps(11, size, drop_last=drop_last)
    if count == 0:
        with pytest.raises(DataError, match="too few for one batch of 20"):
            batches(images, size, drop_last=drop_last)
        return
    for shuffle in (None, generator()):
        seen = []
        result = list(batches(images, size, shuffle=shuffle, drop_last=drop_last))
        assert len(result) == count
        for x, y, index in result:
            assert x.dtype == torch.float32
            assert torch.equal(x, images.pixels(index))
            assert torch.equal(y, images.labels[index])
            seen += index.tolist()
        assert all(len(x) == min(size, 11) for x, _, _ in result[:-1])
        assert len(seen) == len(set(seen)) == min(count * size, 11)
        assert (sorted(seen) == seen) == (shuffle is None or len(seen) == 1)


def test_the_order_is_drawn_at_the_call_from_the_generator_alone():
    images, shuffle = make(), generator(3)
    before, state = torch.get_rng_state(), shuffle.get_state()
    first = [index.tolist() for *_, index in batches(images, 4, shuffle=shuffle)]
    second = [index.tolist() for *_, index in batches(images, 4, shuffle=shuffle)]
    assert first != second
    shuffle.set_state(state)
    assert first == [index.tolist() for *_, index in batches(images, 4, shuffle=shuffle)]
    assert second == [index.tolist() for *_, index in batches(images, 4, shuffle=shuffle)]
    assert torch.equal(before, torch.get_rng_state())
    waiting = batches(images, 4, shuffle=shuffle)
    state = shuffle.get_state()
    next(waiting)
    assert torch.equal(state, shuffle.get_state())


def test_augmentation_resumes_with_the_generator():
    images, augment = make(), Augment(flip=True, pad=1)
    shuffle = generator()
    list(batches(images, 4, shuffle=shuffle, augment=augment))
    state = shuffle.get_state()
    expected = list(batches(images, 4, shuffle=shuffle, augment=augment))
    shuffle.set_state(state)
    for left, right in zip(
        expected, batches(images, 4, shuffle=shuffle, augment=augment), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert any(not torch.equal(x, images.pixels(index)) for x, _, index in expected)


def test_a_batch_does_not_share_memory_with_the_set():
    images = make(dtype=torch.float32)
    kept = images.images.clone()
    for x, y, _ in batches(images, 4):
        x.fill_(0.5)
        y.fill_(2)
    assert torch.equal(images.images, kept)
    assert images.labels.tolist() == [i % 3 for i in range(11)]


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        batches(make(), 0)
    with pytest.raises(ConfigError, match="generator"):
        batches(make(), 4, augment=Augment(flip=True))
